/* The battery behind FMI 2.0 for co-simulation. */
#include "battery.h"
#include "fmi2Functions.h"

#define B ((Battery *)c)
#define REFUSED(name, ...) fmi2Status name(__VA_ARGS__) { return fmi2Error; }

const char *fmi2GetTypesPlatform(void) { return fmi2TypesPlatform; }
const char *fmi2GetVersion(void) { return fmi2Version; }
fmi2Status fmi2SetDebugLogging(fmi2Component c, fmi2Boolean on, size_t n, const fmi2String categories[]) { return fmi2OK; }

fmi2Component fmi2Instantiate(fmi2String name, fmi2Type type, fmi2String guid, fmi2String resources,
                              const fmi2CallbackFunctions *functions, fmi2Boolean visible, fmi2Boolean logging) {
    if (type != fmi2CoSimulation || strcmp(guid, "{heron-battery}") != 0) return NULL;
    Battery *b = calloc(1, sizeof *b);
    if (b == NULL) return NULL;
    b->environment = functions->componentEnvironment;
    b->log = (void *)functions->logger;
    defaults(b);
    return b;
}
void fmi2FreeInstance(fmi2Component c) { free(c); }
fmi2Status fmi2SetupExperiment(fmi2Component c, fmi2Boolean d, fmi2Real tolerance, fmi2Real start, fmi2Boolean e, fmi2Real stop) { B->t = start; return fmi2OK; }
fmi2Status fmi2EnterInitializationMode(fmi2Component c) { return fmi2OK; }
fmi2Status fmi2ExitInitializationMode(fmi2Component c) { begin(B); return fmi2OK; }
fmi2Status fmi2Terminate(fmi2Component c) { return fmi2OK; }
fmi2Status fmi2Reset(fmi2Component c) { defaults(B); return fmi2OK; }

fmi2Status fmi2GetReal(fmi2Component c, const fmi2ValueReference vr[], size_t n, fmi2Real value[]) {
    for (size_t i = 0; i < n; i++) {
        if (vr[i] >= N_VARIABLES) return fmi2Error;
        value[i] = B->v[vr[i]];
    }
    return fmi2OK;
}
fmi2Status fmi2SetReal(fmi2Component c, const fmi2ValueReference vr[], size_t n, const fmi2Real value[]) {
    for (size_t i = 0; i < n; i++) {
        if (vr[i] >= N_VARIABLES) return fmi2Error;
        B->v[vr[i]] = value[i];
    }
    return fmi2OK;
}
fmi2Status fmi2GetBoolean(fmi2Component c, const fmi2ValueReference vr[], size_t n, fmi2Boolean value[]) {
    for (size_t i = 0; i < n; i++) {
        if (vr[i] != RUNNING) return fmi2Error;
        value[i] = B->v[RUNNING] != 0.0;
    }
    return fmi2OK;
}
fmi2Status fmi2DoStep(fmi2Component c, fmi2Real t, fmi2Real h, fmi2Boolean no_undo) {
    if (step(B, h) == 0) return fmi2OK;
    fmi2CallbackLogger log = (fmi2CallbackLogger)B->log;
    log(B->environment, "battery", fmi2Error, "logStatusError", "the cells are too hot at %g s", B->t);
    return fmi2Error;
}
fmi2Status fmi2GetFMUstate(fmi2Component c, fmi2FMUstate *state) {
    if (*state == NULL) *state = malloc(sizeof(Battery));
    if (*state == NULL) return fmi2Error;
    memcpy(*state, c, sizeof(Battery));
    return fmi2OK;
}
fmi2Status fmi2SetFMUstate(fmi2Component c, fmi2FMUstate state) { memcpy(c, state, sizeof(Battery)); return fmi2OK; }
fmi2Status fmi2FreeFMUstate(fmi2Component c, fmi2FMUstate *state) { free(*state); *state = NULL; return fmi2OK; }

REFUSED(fmi2GetInteger, fmi2Component c, const fmi2ValueReference vr[], size_t n, fmi2Integer value[])
REFUSED(fmi2GetString, fmi2Component c, const fmi2ValueReference vr[], size_t n, fmi2String value[])
REFUSED(fmi2SetInteger, fmi2Component c, const fmi2ValueReference vr[], size_t n, const fmi2Integer value[])
REFUSED(fmi2SetBoolean, fmi2Component c, const fmi2ValueReference vr[], size_t n, const fmi2Boolean value[])
REFUSED(fmi2SetString, fmi2Component c, const fmi2ValueReference vr[], size_t n, const fmi2String value[])
REFUSED(fmi2SerializedFMUstateSize, fmi2Component c, fmi2FMUstate state, size_t *size)
REFUSED(fmi2SerializeFMUstate, fmi2Component c, fmi2FMUstate state, fmi2Byte bytes[], size_t size)
REFUSED(fmi2DeSerializeFMUstate, fmi2Component c, const fmi2Byte bytes[], size_t size, fmi2FMUstate *state)
REFUSED(fmi2GetDirectionalDerivative, fmi2Component c, const fmi2ValueReference u[], size_t nu, const fmi2ValueReference k[], size_t nk, const fmi2Real dk[], fmi2Real du[])
REFUSED(fmi2SetRealInputDerivatives, fmi2Component c, const fmi2ValueReference vr[], size_t n, const fmi2Integer order[], const fmi2Real value[])
REFUSED(fmi2GetRealOutputDerivatives, fmi2Component c, const fmi2ValueReference vr[], size_t n, const fmi2Integer order[], fmi2Real value[])
REFUSED(fmi2CancelStep, fmi2Component c)
REFUSED(fmi2GetStatus, fmi2Component c, const fmi2StatusKind kind, fmi2Status *value)
REFUSED(fmi2GetRealStatus, fmi2Component c, const fmi2StatusKind kind, fmi2Real *value)
REFUSED(fmi2GetIntegerStatus, fmi2Component c, const fmi2StatusKind kind, fmi2Integer *value)
REFUSED(fmi2GetBooleanStatus, fmi2Component c, const fmi2StatusKind kind, fmi2Boolean *value)
REFUSED(fmi2GetStringStatus, fmi2Component c, const fmi2StatusKind kind, fmi2String *value)
