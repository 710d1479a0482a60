/* MD5 of sixteen streams at once.
 *
 * One stream cannot be hashed faster than its chain of additions and turns
 * allows (RFC 1321); sixteen independent ones fill the vector units. The
 * widest form that the processor has is chosen when the module is loaded.
 */
#include "digest.h"
#include "md5_rounds.h"

#include <math.h>
#include <string.h>

uint32_t md5_constants[64];

#define NAME md5_two
#define TARGET
#define BEGIN (void)sha;
#define BLOCK_BEGINS
#define BESIDE(step)
#define BLOCK_ENDS
#define END
#include "md5_pair.h"

#ifdef __x86_64__
#include "sha256_rounds.h"
/* The instructions of SHA-256 use other parts of the processor than the additions of MD5. */
#define NAME two_and_sha256
#define TARGET WITH
#define BEGIN Halves halves = load(sha);
#define BLOCK_BEGINS        \
    Halves before = halves; \
    __m128i w[4];
#define BESIDE(step)                                                                                           \
    w[(step) & 3] = (step) < 4 ? read_words(data + 16 * (step))                                                \
                               : extend(w[(step) & 3], w[((step) + 1) & 3], w[((step) + 2) & 3], w[((step) + 3) & 3]); \
    four_rounds(&halves, w[(step) & 3], 4 * (step));
#define BLOCK_ENDS                                                 \
    halves.abef = _mm_add_epi32(halves.abef, before.abef);         \
    halves.cdgh = _mm_add_epi32(halves.cdgh, before.cdgh);
#define END store(sha, halves);
#include "md5_pair.h"
#endif

void md5_parts(uint32_t part[4], uint32_t whole[4], uint32_t sha[8], const uint8_t *data, size_t blocks) {
#ifdef __x86_64__
    two_and_sha256(part, whole, sha, data, blocks);
#else
    md5_two(part, whole, sha, data, blocks);
#endif
}

#define WIDTH 1
#define NAME(x) one_##x
#define TARGET
#define ZIP_LOW 0
#define ZIP_HIGH 0
#include "md5_lanes.h"

#define WIDTH 4
#define NAME(x) four_##x
#define TARGET
#define ZIP_LOW 0, 4, 1, 5
#define ZIP_HIGH 2, 6, 3, 7
#include "md5_lanes.h"

#ifdef __x86_64__
#define WIDTH 8
#define NAME(x) eight_##x
#define TARGET __attribute__((target("avx2")))
#define ZIP_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define ZIP_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#include "md5_lanes.h"

#include <immintrin.h>
#define TABLE(b, c, d, table) ((sixteen_words)_mm512_ternarylogic_epi32((__m512i)b, (__m512i)c, (__m512i)d, table))
#include "md5_tables.h"
#define WIDTH 16
#define NAME(x) sixteen_##x
#define TARGET __attribute__((target("avx512f")))
#define ZIP_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define ZIP_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#include "md5_lanes.h"
#endif

typedef void Blocks(uint32_t[4][LANES], const uint8_t *const[LANES], unsigned, size_t);
static Blocks *chosen[PATHS]; /* no wider vectors than a path's own */

void md5_setup(void) {
    for (int number = 0; number < 64; number++) md5_constants[number] = (uint32_t)(4294967296.0 * fabs(sin(number + 1)));
    for (int path = 0; path < PATHS; path++) chosen[path] = four_blocks;
#ifdef __x86_64__
    Blocks *widest = has_path(AVX512) ? sixteen_blocks : has_path(AVX2) ? eight_blocks : four_blocks;
    chosen[NONE] = chosen[SHA_NI] = widest;
    chosen[SHA_NI_AVX512] = chosen[AVX512] = sixteen_blocks, chosen[AVX2] = eight_blocks;
#endif
}

void md5_start(uint32_t state[4]) { state[0] = 0x67452301, state[1] = 0xefcdab89, state[2] = 0x98badcfe, state[3] = 0x10325476; }

void md5_one(uint32_t state[4], const uint8_t *data, size_t blocks) {
    uint32_t other[4] = {0};
    md5_two(state, other, NULL, data, blocks); /* for the last blocks of a part: nobody waits for them */
}

void md5_begin(uint32_t state[4][LANES], int lane) {
    state[0][lane] = 0x67452301, state[1][lane] = 0xefcdab89, state[2][lane] = 0x98badcfe, state[3][lane] = 0x10325476;
}

void md5_blocks(Path path, uint32_t state[4][LANES], const uint8_t *const data[LANES], unsigned used, size_t blocks) {
    /* A vector is as slow for one stream as for all of its own: up to two are quicker one after the other. */
    (__builtin_popcount(used) > 2 ? chosen[path] : one_blocks)(state, data, used, blocks);
}

/* The chains of the whole of lanes in ``used`` and of the part of those in ``parted``, at most LANES, and no other ones. */
static void go_packed(Path path, uint32_t whole[4][LANES], uint32_t part[4][LANES], const uint8_t *const data[LANES],
                      unsigned used, unsigned parted, size_t blocks) {
    uint32_t states[4][LANES] = {{0}}, (*chains[LANES])[LANES];
    const uint8_t *lanes[LANES];
    int from[LANES], taken = 0;
    for (int lane = 0; lane < LANES; lane++) {
        if (used >> lane & 1) chains[taken] = whole, from[taken] = lane, lanes[taken++] = data[lane];
        if (parted >> lane & 1) chains[taken] = part, from[taken] = lane, lanes[taken++] = data[lane];
    }
    for (int lane = taken; lane < LANES; lane++) lanes[lane] = lanes[0];
    for (int word = 0; word < 4; word++)
        for (int lane = 0; lane < taken; lane++) states[word][lane] = chains[lane][word][from[lane]];
    if (taken == 2 && used) { /* one file: its two chains fill the gaps of each other */
        uint32_t first[4], second[4];
        for (int word = 0; word < 4; word++) first[word] = states[word][0], second[word] = states[word][1];
        md5_two(first, second, NULL, lanes[0], blocks);
        for (int word = 0; word < 4; word++) states[word][0] = first[word], states[word][1] = second[word];
    } else {
        md5_blocks(path, states, lanes, (1u << taken) - 1, blocks);
    }
    for (int word = 0; word < 4; word++)
        for (int lane = 0; lane < taken; lane++) chains[lane][word][from[lane]] = states[word][lane];
}

void md5_chains(Path path, uint32_t whole[4][LANES], uint32_t part[4][LANES], const uint8_t *const data[LANES], unsigned used,
                unsigned parted, size_t blocks) {
    int both = parted && __builtin_popcount(used) + __builtin_popcount(parted) <= LANES;
    if (!both) md5_blocks(path, whole, data, used, blocks);
    if (parted) go_packed(path, whole, part, data, both ? used : 0, parted, blocks);
}
