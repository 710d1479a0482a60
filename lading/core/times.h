/* A time as nanoseconds since 1970 in 64 bits: what does not fit is the nearest that does, as in times.py. */
#ifndef LADING_TIMES_H
#define LADING_TIMES_H
#include <stdint.h>
#include <time.h>

static inline int64_t saturated_ns(struct timespec time) {
    const int64_t second = 1000000000, last = INT64_MAX / second, first = INT64_MIN / second - 1;
    int64_t whole = time.tv_sec, rest = time.tv_nsec;
    if (whole > last || (whole == last && rest > INT64_MAX % second)) return INT64_MAX;
    if (whole < first || (whole == first && rest < second + INT64_MIN % second)) return INT64_MIN;
    /* The second below 1970's earliest whole one fits only together with its rest. */
    return whole < 0 ? (whole + 1) * second + (rest - second) : whole * second + rest;
}

#endif
