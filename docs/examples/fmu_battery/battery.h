/* A battery as a manufacturer's model may be: what it can, how fast it reacts, what it loses.
   Powers in kW, positive = charging; reactive power in kvar, positive = absorbed, at once; state of charge in percent. The solver is its own: explicit Euler. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { P_SET, P, SOC, SOC_START, CAPACITY_KWH, LAG_S, FAIL_AT_S, RUNNING, Q_SET, Q, N_VARIABLES };

typedef struct {
    double v[N_VARIABLES];
    double t;
    void *environment;
    void *log;
} Battery;

static void defaults(Battery *b) {
    memset(b->v, 0, sizeof b->v);
    b->v[SOC_START] = b->v[SOC] = 50.0;
    b->v[CAPACITY_KWH] = 10.0;
    b->v[LAG_S] = 20.0;
    b->v[FAIL_AT_S] = -1.0; /* >= 0: fails on purpose, from then on */
    b->t = 0.0;
}

static void begin(Battery *b) {
    b->v[SOC] = b->v[SOC_START];
    b->v[P] = 0.0;
    b->v[Q] = 0.0;
    b->v[RUNNING] = 1.0;
}

/* Returns 0, or 1 if it fails. */
static int step(Battery *b, double h) {
    if (b->v[FAIL_AT_S] >= 0.0 && b->t + h > b->v[FAIL_AT_S]) return 1;
    double end = b->t + h;
    while (b->t < end - 1e-9) {
        double dt = end - b->t < 1.0 ? end - b->t : 1.0;
        double to = b->v[P_SET];
        if ((to > 0.0 && b->v[SOC] >= 100.0) || (to < 0.0 && b->v[SOC] <= 0.0)) to = 0.0;
        b->v[P] += (to - b->v[P]) * (dt / (b->v[LAG_S] + dt));
        double stored = b->v[P] > 0.0 ? b->v[P] * 0.95 : b->v[P] / 0.95;
        double soc = b->v[SOC] + 100.0 * stored * dt / 3600.0 / b->v[CAPACITY_KWH];
        if (soc > 100.0 || soc < 0.0) {
            soc = soc > 100.0 ? 100.0 : 0.0;
            b->v[P] = 0.0;
        }
        b->v[SOC] = soc;
        b->t += dt;
    }
    b->v[Q] = b->v[Q_SET];
    b->t = end;
    return 0;
}
