/* SHA-256 (FIPS 180-4): by the processor's SHA instructions, or of many streams side by side in vectors.
 *
 * With the instructions one stream waits for each result, and a second one fits into the gaps. Without them sixteen
 * streams fill the vector units; a stream that is alone gets at least its message schedule by vectors.
 */
#include "digest.h"

#include <math.h>
#include <string.h>

uint32_t sha256_constants[64] __attribute__((aligned(16)));
static const uint32_t BEGIN[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                  0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

void sha256_begin(uint32_t state[8][LANES], int lane) {
    for (int word = 0; word < 8; word++) state[word][lane] = BEGIN[word];
}

#ifdef __x86_64__
#include "sha256_rounds.h"

void sha256_setup(void) {
    /* The first 32 bits of the fractions of the cube roots of the first 64 primes. */
    for (int found = 0, number = 2; found < 64; number++) {
        int prime = 1;
        for (int d = 2; d * d <= number; d++) prime &= number % d != 0;
        double root = cbrt(number);
        if (prime) sha256_constants[found++] = (uint32_t)((root - floor(root)) * 4294967296.0);
    }
}

int has_path(Path path) {
    unsigned a, b = 0, c, d;
    __builtin_cpu_init();
    switch (path) {
    case SHA_NI_AVX512:
        return has_path(SHA_NI) && has_path(AVX512);
    case SHA_NI:
        __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(0));
        return (b >> 29 & 1) && __builtin_cpu_supports("sse4.1") && __builtin_cpu_supports("ssse3");
    case AVX512:
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("bmi2");
    case AVX2:
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
    default:
        return path == PLAIN;
    }
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

WITH static void instructed_blocks(uint32_t state[8], const uint8_t *data, size_t blocks) {
    Halves h = load(state);
    for (; blocks; blocks--, data += BLOCK) one_block(&h, data);
    store(state, h);
}

WITH static void instructed_two(uint32_t a[8], const uint8_t *first, uint32_t b[8], const uint8_t *second, size_t blocks) {
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

#define ROTATED(x, by) ((x) << (by) | (x) >> (32 - (by)))
#define WIDTH 4
#define NAME(x) four_##x
#define TARGET
#define ZIP_LOW 0, 4, 1, 5
#define ZIP_HIGH 2, 6, 3, 7
#define SWAP(x) ((ROTATED(x, 8) & 0x00ff00ff) | (ROTATED(x, 24) & 0xff00ff00))
#define CHOOSE(e, f, g) (g ^ (e & (f ^ g)))
#define MAJORITY(a, b, c, p, q) (p = a ^ b, b ^ (p & q))
#define SUM(x, y, z) ((x) ^ (y) ^ (z))
#include "sha256_lanes.h"

#define ORDER 12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3
#define WIDTH 8
#define NAME(x) eight_##x
#define TARGET __attribute__((target("avx2,bmi2")))
#define ZIP_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define ZIP_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#define SWAP(x) ((eight_words)_mm256_shuffle_epi8((__m256i)x, _mm256_set_epi8(ORDER, ORDER)))
#define CHOOSE(e, f, g) (g ^ (e & (f ^ g)))
#define MAJORITY(a, b, c, p, q) (p = a ^ b, b ^ (p & q))
#define SUM(x, y, z) ((x) ^ (y) ^ (z))
#include "sha256_lanes.h"

/* With AVX-512 a turn is one instruction, and so is each function of three: its table is the last operand. */
#define TABLE(x, y, z, table) ((short_words)_mm256_ternarylogic_epi32((__m256i)(x), (__m256i)(y), (__m256i)(z), table))
#define WIDTH 8
#define NAME(x) short_##x
#define TARGET __attribute__((target("avx512f,avx512vl,avx512bw,bmi2")))
#define ZIP_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define ZIP_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#define SWAP(x) ((short_words)_mm256_shuffle_epi8((__m256i)x, _mm256_set_epi8(ORDER, ORDER)))
#define CHOOSE(e, f, g) TABLE(e, f, g, 0xca)
#define MAJORITY(a, b, c, p, q) TABLE(a, b, c, 0xe8)
#define SUM(x, y, z) TABLE(x, y, z, 0x96)
#include "sha256_lanes.h"

#undef TABLE
#define TABLE(x, y, z, table) ((long_words)_mm512_ternarylogic_epi32((__m512i)(x), (__m512i)(y), (__m512i)(z), table))
#define WIDTH 16
#define NAME(x) long_##x
#define TARGET __attribute__((target("avx512f,avx512vl,avx512bw,bmi2")))
#define ZIP_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define ZIP_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#define SWAP(x) ((long_words)_mm512_shuffle_epi8((__m512i)x, _mm512_broadcast_i32x4(_mm_set_epi8(ORDER))))
#define CHOOSE(e, f, g) TABLE(e, f, g, 0xca)
#define MAJORITY(a, b, c, p, q) TABLE(a, b, c, 0xe8)
#define SUM(x, y, z) TABLE(x, y, z, 0x96)
#define LANES_ONLY
#include "sha256_lanes.h"

/* Lanes one after the other, two at a time where that is quicker. */
static void sum_alone(Path path, uint32_t state[8][LANES], const uint8_t *const data[LANES], int count, size_t blocks) {
    uint32_t s[LANES][8];
    for (int lane = 0; lane < count; lane++)
        for (int word = 0; word < 8; word++) s[lane][word] = state[word][lane];
    int lane = 0;
    if (path <= SHA_NI)
        for (; lane + 1 < count; lane += 2) instructed_two(s[lane], data[lane], s[lane + 1], data[lane + 1], blocks);
    for (; lane < count; lane++)
        (path <= SHA_NI ? instructed_blocks : path == AVX512 ? short_stream : path == AVX2 ? eight_stream : four_stream)(
            s[lane], data[lane], blocks);
    for (lane = 0; lane < count; lane++)
        for (int word = 0; word < 8; word++) state[word][lane] = s[lane][word];
}

/* The first ``count`` lanes, by the way that is quickest for so many: a vector is as slow for one as for all of its own. */
static void sum_packed(Path path, uint32_t state[8][LANES], const uint8_t *const data[LANES], int count, size_t blocks) {
    static const int alone[PATHS] = {[SHA_NI_AVX512] = 6, [SHA_NI] = LANES, [AVX512] = 1, [AVX2] = 2, [PLAIN] = 2};
    if (count <= alone[path]) sum_alone(path, state, data, count, blocks);
    else if (path == PLAIN) four_blocks(state, data, count, blocks);
    else if (path == AVX2) eight_blocks(state, data, count, blocks);
    else (count > 8 ? long_blocks : short_blocks)(state, data, count, blocks);
}

void sha256_lanes(Path path, uint32_t state[8][LANES], const uint8_t *const data[LANES], unsigned used, size_t blocks) {
    uint32_t packed[8][LANES];
    const uint8_t *lanes[LANES];
    int from[LANES], count = 0;
    for (int lane = 0; lane < LANES; lane++)
        if (used >> lane & 1) from[count++] = lane;
    if (!count || !path) return;
    if (count == LANES) {
        sum_packed(path, state, data, count, blocks);
        return;
    }
    for (int lane = 0; lane < LANES; lane++) {
        int source = from[lane < count ? lane : 0]; /* what is hashed in vain is readable, too */
        lanes[lane] = data[source];
        for (int word = 0; word < 8; word++) packed[word][lane] = state[word][source];
    }
    sum_packed(path, packed, lanes, count, blocks);
    for (int lane = 0; lane < count; lane++)
        for (int word = 0; word < 8; word++) state[word][from[lane]] = packed[word][lane];
}
#else
void sha256_setup(void) {}
int has_path(Path path) { return (void)path, 0; }
void sha256_lanes(Path path, uint32_t state[8][LANES], const uint8_t *const data[LANES], unsigned used, size_t blocks) {
    (void)path, (void)state, (void)data, (void)used, (void)blocks;
}
#endif
