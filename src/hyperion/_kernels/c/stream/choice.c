#include "stream/choice.h"

#include <string.h>

enum { RUN_BYTES = 96 << 20 }; /* many times what a system reads ahead */
enum { OFTEN = 8, SELDOM = 32, RARELY = 256 }; /* runs from one trial to the next: at first, of a near loser, of a bad one */
#define NEAR 0.7  /* of the best rate */
#define BETTER 1.03

void hyp_choice_init(hyp_choice *c, const int allowed[HYP_READ_WAYS], size_t chunk_bytes, size_t in_flight)
{
    memset(c, 0, sizeof *c);
    memcpy(c->allowed, allowed, sizeof c->allowed);
    c->length = RUN_BYTES / chunk_bytes;
    if (c->length < 4 * in_flight) c->length = 4 * in_flight;
    for (int way = 0; way < HYP_READ_WAYS; way++) c->every[way] = OFTEN * c->length; /* due at once */
    while (!c->allowed[c->best]) c->best++;
    c->now = c->best;
    c->mark = c->length / 3, c->end = c->length;
}

static void judge(hyp_choice *c)
{
    const int way = c->now;
    if (way == c->best) return;
    const double share = c->rate[way] / c->rate[c->best];
    const uint64_t most = (share < NEAR ? RARELY : SELDOM) * c->length;
    int loser = way;
    if (share > BETTER) {
        loser = c->best;
        c->best = way;
        c->every[loser] = OFTEN * c->length;
    } else {
        c->every[way] *= share < NEAR ? 4 : 2;
        if (c->every[way] > most) c->every[way] = most;
    }
    c->due[loser] = c->chunk + c->every[loser];
}

int hyp_choice_next(hyp_choice *c, uint64_t bytes, double seconds)
{
    if (c->chunk == c->mark) c->mark_bytes = bytes, c->mark_seconds = seconds; /* the system has settled on the way */
    if (c->chunk == c->end) {
        if (seconds > c->mark_seconds) c->rate[c->now] = (double)(bytes - c->mark_bytes) / (seconds - c->mark_seconds);
        judge(c);
        c->now = c->best;
        for (int way = 0; way < HYP_READ_WAYS; way++)
            if (c->allowed[way] && way != c->best && c->due[way] <= c->chunk) {
                c->now = way;
                break;
            }
        c->mark = c->chunk + c->length / 3, c->end = c->chunk + c->length;
    }
    c->chunk++;
    return c->now;
}

int hyp_choice_settled(const hyp_choice *c)
{
    for (int way = 0; way < HYP_READ_WAYS; way++)
        if (c->allowed[way] && c->rate[way] <= 0) return 0;
    return 1;
}
