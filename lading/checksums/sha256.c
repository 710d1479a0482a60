/* SHA-256 (FIPS 180-4) by the processor's SHA instructions, one stream or two side by side.
 *
 * One stream waits for each instruction's result; a second one fits into the gaps.
 */
#include "digest.h"

#include <math.h>
#include <string.h>

uint32_t sha256_constants[64] __attribute__((aligned(16)));
static const uint32_t BEGIN[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                  0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

void sha256_begin(uint32_t state[8]) { memcpy(state, BEGIN, sizeof BEGIN); }

#ifdef __x86_64__
#include "sha256_rounds.h"

int sha256_setup(void) {
    /* The first 32 bits of the fractions of the cube roots of the first 64 primes. */
    for (int found = 0, number = 2; found < 64; number++) {
        int prime = 1;
        for (int d = 2; d * d <= number; d++) prime &= number % d != 0;
        double root = cbrt(number);
        if (prime) sha256_constants[found++] = (uint32_t)((root - floor(root)) * 4294967296.0);
    }
    unsigned a, b = 0, c, d;
    __builtin_cpu_init();
    __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(0));
    return (b >> 29 & 1) && __builtin_cpu_supports("sse4.1") && __builtin_cpu_supports("ssse3");
}

WITH static inline void one_block(Halves *h, const uint8_t *data) {
    Halves before = *h;
    __m128i w[4];
    _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) {
        w[i] = read_words(data + 16 * i);
        four_rounds(h, w[i], 4 * i);
    }
    _Pragma("GCC unroll 12") for (int i = 4; i < 16; i++) {
        w[i & 3] = extend(w[i & 3], w[(i + 1) & 3], w[(i + 2) & 3], w[(i + 3) & 3]);
        four_rounds(h, w[i & 3], 4 * i);
    }
    h->abef = _mm_add_epi32(h->abef, before.abef);
    h->cdgh = _mm_add_epi32(h->cdgh, before.cdgh);
}

WITH void sha256_blocks(uint32_t state[8], const uint8_t *data, size_t blocks) {
    Halves h = load(state);
    for (; blocks; blocks--, data += BLOCK) one_block(&h, data);
    store(state, h);
}

WITH void sha256_two(uint32_t a[8], const uint8_t *first, uint32_t b[8], const uint8_t *second, size_t blocks) {
    Halves h = load(a), i = load(b);
    for (; blocks; blocks--, first += BLOCK, second += BLOCK) {
        Halves h0 = h, i0 = i;
        __m128i v[4], w[4];
        _Pragma("GCC unroll 4") for (int k = 0; k < 4; k++) {
            v[k] = read_words(first + 16 * k);
            w[k] = read_words(second + 16 * k);
            four_rounds(&h, v[k], 4 * k);
            four_rounds(&i, w[k], 4 * k);
        }
        _Pragma("GCC unroll 12") for (int k = 4; k < 16; k++) {
            v[k & 3] = extend(v[k & 3], v[(k + 1) & 3], v[(k + 2) & 3], v[(k + 3) & 3]);
            w[k & 3] = extend(w[k & 3], w[(k + 1) & 3], w[(k + 2) & 3], w[(k + 3) & 3]);
            four_rounds(&h, v[k & 3], 4 * k);
            four_rounds(&i, w[k & 3], 4 * k);
        }
        h.abef = _mm_add_epi32(h.abef, h0.abef), h.cdgh = _mm_add_epi32(h.cdgh, h0.cdgh);
        i.abef = _mm_add_epi32(i.abef, i0.abef), i.cdgh = _mm_add_epi32(i.cdgh, i0.cdgh);
    }
    store(a, h), store(b, i);
}
#else
int sha256_setup(void) { return 0; }
void sha256_blocks(uint32_t state[8], const uint8_t *data, size_t blocks) { (void)state, (void)data, (void)blocks; }
void sha256_two(uint32_t a[8], const uint8_t *first, uint32_t b[8], const uint8_t *second, size_t blocks) {
    (void)a, (void)first, (void)b, (void)second, (void)blocks;
}
#endif
