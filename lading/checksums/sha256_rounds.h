/* The rounds of SHA-256 by the processor's SHA instructions, for sha256.c and for md5.c, which does both in one loop. */
#ifndef LADING_SHA256_ROUNDS_H
#define LADING_SHA256_ROUNDS_H

#include <immintrin.h>
#include <stdint.h>

#define WITH __attribute__((target("sha,sse4.1,ssse3")))

extern uint32_t sha256_constants[64];

/* The state as the instructions hold it: the words a, b, e, f in one register, c, d, g, h in the other. */
typedef struct {
    __m128i abef, cdgh;
} Halves;

WITH static inline Halves load(const uint32_t s[8]) {
    return (Halves){_mm_set_epi32((int)s[0], (int)s[1], (int)s[4], (int)s[5]),
                    _mm_set_epi32((int)s[2], (int)s[3], (int)s[6], (int)s[7])};
}

WITH static inline void store(uint32_t s[8], Halves h) {
    uint32_t high[4], low[4];
    _mm_storeu_si128((__m128i *)high, h.abef);
    _mm_storeu_si128((__m128i *)low, h.cdgh);
    s[0] = high[3], s[1] = high[2], s[4] = high[1], s[5] = high[0];
    s[2] = low[3], s[3] = low[2], s[6] = low[1], s[7] = low[0];
}

WITH static inline __m128i read_words(const uint8_t *data) {
    const __m128i big_endian = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
    return _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)data), big_endian);
}

WITH static inline void four_rounds(Halves *h, __m128i words, int round) {
    __m128i sum = _mm_add_epi32(words, _mm_load_si128((const __m128i *)(sha256_constants + round)));
    h->cdgh = _mm_sha256rnds2_epu32(h->cdgh, h->abef, sum);
    h->abef = _mm_sha256rnds2_epu32(h->abef, h->cdgh, _mm_shuffle_epi32(sum, 0x0e));
}

/* Words t to t+3 of the schedule, of the sixteen before them. */
WITH static inline __m128i extend(__m128i w16, __m128i w12, __m128i w8, __m128i w4) {
    __m128i sum = _mm_add_epi32(_mm_sha256msg1_epu32(w16, w12), _mm_alignr_epi8(w4, w8, 4));
    return _mm_sha256msg2_epu32(sum, w4);
}

#endif
