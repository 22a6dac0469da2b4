/* The battery behind FMI 3.0 for co-simulation. */
#include "battery.h"
#include "fmi3FunctionTypes.h"

#define B ((Battery *)c)
#define OUT __attribute__((visibility("default")))

OUT const char *fmi3GetVersion(void) { return "3.0"; }
OUT fmi3Status fmi3SetDebugLogging(fmi3Instance c, fmi3Boolean on, size_t n, const fmi3String categories[]) { return fmi3OK; }

OUT fmi3Instance fmi3InstantiateCoSimulation(fmi3String name, fmi3String token, fmi3String resources, fmi3Boolean visible,
                                             fmi3Boolean logging, fmi3Boolean events, fmi3Boolean early,
                                             const fmi3ValueReference vr[], size_t n, fmi3InstanceEnvironment environment,
                                             fmi3LogMessageCallback log, fmi3IntermediateUpdateCallback update) {
    if (strcmp(token, "{heron-battery}") != 0) return NULL;
    Battery *b = calloc(1, sizeof *b);
    if (b == NULL) return NULL;
    b->environment = environment;
    b->log = (void *)log;
    defaults(b);
    return b;
}
OUT void fmi3FreeInstance(fmi3Instance c) { free(c); }
OUT fmi3Status fmi3EnterInitializationMode(fmi3Instance c, fmi3Boolean d, fmi3Float64 tolerance, fmi3Float64 start, fmi3Boolean e, fmi3Float64 stop) { B->t = start; return fmi3OK; }
OUT fmi3Status fmi3ExitInitializationMode(fmi3Instance c) { begin(B); return fmi3OK; }
OUT fmi3Status fmi3Terminate(fmi3Instance c) { return fmi3OK; }
OUT fmi3Status fmi3Reset(fmi3Instance c) { defaults(B); return fmi3OK; }

OUT fmi3Status fmi3GetFloat64(fmi3Instance c, const fmi3ValueReference vr[], size_t n, fmi3Float64 value[], size_t m) {
    for (size_t i = 0; i < n; i++) {
        if (vr[i] >= N_VARIABLES) return fmi3Error;
        value[i] = B->v[vr[i]];
    }
    return fmi3OK;
}
OUT fmi3Status fmi3SetFloat64(fmi3Instance c, const fmi3ValueReference vr[], size_t n, const fmi3Float64 value[], size_t m) {
    for (size_t i = 0; i < n; i++) {
        if (vr[i] >= N_VARIABLES) return fmi3Error;
        B->v[vr[i]] = value[i];
    }
    return fmi3OK;
}
OUT fmi3Status fmi3GetBoolean(fmi3Instance c, const fmi3ValueReference vr[], size_t n, fmi3Boolean value[], size_t m) {
    for (size_t i = 0; i < n; i++) {
        if (vr[i] != RUNNING) return fmi3Error;
        value[i] = B->v[RUNNING] != 0.0;
    }
    return fmi3OK;
}
OUT fmi3Status fmi3DoStep(fmi3Instance c, fmi3Float64 t, fmi3Float64 h, fmi3Boolean no_undo, fmi3Boolean *event,
                          fmi3Boolean *terminate, fmi3Boolean *early, fmi3Float64 *last) {
    *event = *terminate = *early = fmi3False;
    if (step(B, h) == 0) {
        *last = B->t;
        return fmi3OK;
    }
    ((fmi3LogMessageCallback)B->log)(B->environment, fmi3Error, "logStatusError", "the cells are too hot");
    return fmi3Error;
}
OUT fmi3Status fmi3GetFMUState(fmi3Instance c, fmi3FMUState *state) {
    if (*state == NULL) *state = malloc(sizeof(Battery));
    if (*state == NULL) return fmi3Error;
    memcpy(*state, c, sizeof(Battery));
    return fmi3OK;
}
OUT fmi3Status fmi3SetFMUState(fmi3Instance c, fmi3FMUState state) { memcpy(c, state, sizeof(Battery)); return fmi3OK; }
OUT fmi3Status fmi3FreeFMUState(fmi3Instance c, fmi3FMUState *state) { free(*state); *state = NULL; return fmi3OK; }

/* The standard wants every function to be there; these refuse, whatever they are given. */
#define REFUSED(name) OUT int name(void) { return fmi3Error; }
#define NOTHING(name) OUT void *name(void) { return NULL; }
NOTHING(fmi3InstantiateModelExchange) NOTHING(fmi3InstantiateScheduledExecution)
REFUSED(fmi3EnterEventMode) REFUSED(fmi3EnterStepMode) REFUSED(fmi3EnterConfigurationMode)
REFUSED(fmi3ExitConfigurationMode) REFUSED(fmi3EnterContinuousTimeMode) REFUSED(fmi3CompletedIntegratorStep)
REFUSED(fmi3GetFloat32) REFUSED(fmi3GetInt8) REFUSED(fmi3GetUInt8) REFUSED(fmi3GetInt16) REFUSED(fmi3GetUInt16)
REFUSED(fmi3GetInt32) REFUSED(fmi3GetUInt32) REFUSED(fmi3GetInt64) REFUSED(fmi3GetUInt64) REFUSED(fmi3GetString)
REFUSED(fmi3GetBinary) REFUSED(fmi3GetClock) REFUSED(fmi3SetFloat32) REFUSED(fmi3SetInt8) REFUSED(fmi3SetUInt8)
REFUSED(fmi3SetInt16) REFUSED(fmi3SetUInt16) REFUSED(fmi3SetInt32) REFUSED(fmi3SetUInt32) REFUSED(fmi3SetInt64)
REFUSED(fmi3SetUInt64) REFUSED(fmi3SetBoolean) REFUSED(fmi3SetString) REFUSED(fmi3SetBinary) REFUSED(fmi3SetClock)
REFUSED(fmi3GetNumberOfVariableDependencies) REFUSED(fmi3GetVariableDependencies)
REFUSED(fmi3SerializedFMUStateSize) REFUSED(fmi3SerializeFMUState) REFUSED(fmi3DeserializeFMUState)
REFUSED(fmi3GetDirectionalDerivative) REFUSED(fmi3GetAdjointDerivative) REFUSED(fmi3GetIntervalDecimal)
REFUSED(fmi3GetIntervalFraction) REFUSED(fmi3GetShiftDecimal) REFUSED(fmi3GetShiftFraction)
REFUSED(fmi3SetIntervalDecimal) REFUSED(fmi3SetIntervalFraction) REFUSED(fmi3SetShiftDecimal)
REFUSED(fmi3SetShiftFraction) REFUSED(fmi3EvaluateDiscreteStates) REFUSED(fmi3UpdateDiscreteStates)
REFUSED(fmi3SetTime) REFUSED(fmi3SetContinuousStates) REFUSED(fmi3GetContinuousStateDerivatives)
REFUSED(fmi3GetEventIndicators) REFUSED(fmi3GetContinuousStates) REFUSED(fmi3GetNominalsOfContinuousStates)
REFUSED(fmi3GetNumberOfEventIndicators) REFUSED(fmi3GetNumberOfContinuousStates) REFUSED(fmi3GetOutputDerivatives)
REFUSED(fmi3ActivateModelPartition)
