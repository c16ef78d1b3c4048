/* Lines of memory leave the processor's caches, written back where they are dirty. A device (or the process that plays one) then
 * writes there without having to take the lines from a cache first, which on processors of several dies costs more than the read. */
#ifndef HYP_EVICT_H
#define HYP_EVICT_H

#include "common/hyp.h"

/* 0 where this processor cannot be told to. */
int hyp_can_evict(void);

/* Memory that is not there is not touched: the bytes have to be mapped. */
void hyp_evict(const uint8_t *memory, size_t n);

#endif
