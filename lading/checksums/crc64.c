/* CRC64NVME: the reflected CRC-64 of NVM Express (polynomial ad93d23594c93659), by carry-less multiplication.
 *
 * A word w stands for the polynomial whose x^(63-i) is bit i of w. The
 * constants, powers of x modulo the polynomial, are worked out at the start.
 */
#include "digest.h"

#include <string.h>

#ifdef __x86_64__
#include <immintrin.h>
#endif

static const uint64_t POLYNOMIAL = 0x9a6c9329ac4bc9b5; /* reflected, without x^64 */
static const uint64_t ONE = (uint64_t)1 << 63;
static uint64_t tables[8][256]; /* tables[k][b]: byte b followed by k zero bytes */
static uint64_t by_block[2], by_four[2];
static int multiplies;

static uint64_t times_x(uint64_t word) { return (word >> 1) ^ (word & 1 ? POLYNOMIAL : 0); }

static uint64_t times(uint64_t a, uint64_t b) {
    uint64_t product = 0;
    for (int i = 63; i >= 0; i--, b = times_x(b))
        if (a >> i & 1) product ^= b;
    return product;
}

static uint64_t power_of_x(uint64_t exponent) {
    uint64_t result = ONE;
    for (uint64_t base = ONE >> 1; exponent; exponent >>= 1, base = times(base, base))
        if (exponent & 1) result = times(result, base);
    return result;
}

void crc64_setup(void) {
    for (int byte = 0; byte < 256; byte++) {
        uint64_t word = (uint64_t)byte;
        for (int i = 0; i < 8; i++) word = times_x(word);
        tables[0][byte] = word;
    }
    for (int k = 1; k < 8; k++)
        for (int byte = 0; byte < 256; byte++)
            tables[k][byte] = (tables[k - 1][byte] >> 8) ^ tables[0][tables[k - 1][byte] & 255];
    /* The product of two reflected words is reflected once too far: one power of x less makes up for it. */
    by_block[0] = power_of_x(128 + 63), by_block[1] = power_of_x(128 - 1);
    by_four[0] = power_of_x(512 + 63), by_four[1] = power_of_x(512 - 1);
#ifdef __x86_64__
    __builtin_cpu_init();
    multiplies = __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
#endif
}

static uint64_t by_tables(uint64_t crc, const uint8_t *data, size_t length) {
    for (; length >= 8; data += 8, length -= 8) {
        uint64_t word;
        memcpy(&word, data, 8);
        word ^= crc;
        crc = 0;
        for (int k = 0; k < 8; k++) crc ^= tables[7 - k][word >> 8 * k & 255];
    }
    for (; length; data++, length--) crc = (crc >> 8) ^ tables[0][(crc ^ *data) & 255];
    return crc;
}

#ifdef __x86_64__
#define WITH __attribute__((target("pclmul,sse4.1")))

/* Return ``sum`` moved past the bytes that ``by`` stands for, plus what lies there. */
WITH static inline __m128i fold(__m128i sum, __m128i by, __m128i next) {
    return _mm_xor_si128(next, _mm_xor_si128(_mm_clmulepi64_si128(sum, by, 0x00), _mm_clmulepi64_si128(sum, by, 0x11)));
}

WITH static uint64_t by_products(uint64_t crc, const uint8_t *data, size_t length) {
    const __m128i *blocks = (const __m128i *)data;
    __m128i four = _mm_set_epi64x((long long)by_four[1], (long long)by_four[0]);
    __m128i one = _mm_set_epi64x((long long)by_block[1], (long long)by_block[0]);
    __m128i sums[4];
    for (int i = 0; i < 4; i++) sums[i] = _mm_loadu_si128(blocks + i);
    sums[0] = _mm_xor_si128(sums[0], _mm_cvtsi64_si128((long long)crc));
    for (blocks += 4, length -= 64; length >= 64; blocks += 4, length -= 64)
        for (int i = 0; i < 4; i++) sums[i] = fold(sums[i], four, _mm_loadu_si128(blocks + i));
    for (int i = 1; i < 4; i++) sums[i] = fold(sums[i - 1], one, sums[i]);
    uint8_t rest[16];
    _mm_storeu_si128((__m128i *)rest, sums[3]);
    return by_tables(by_tables(0, rest, 16), (const uint8_t *)blocks, length);
}
#endif

uint64_t crc64(uint64_t crc, const uint8_t *data, size_t length) {
#ifdef __x86_64__
    if (multiplies && length >= 64) return ~by_products(~crc, data, length);
#endif
    return ~by_tables(~crc, data, length);
}
