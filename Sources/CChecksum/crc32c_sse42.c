// SPDX-License-Identifier: Apache-2.0
#include "crc32c.h"

#include <string.h>

// `crc32 r64, r64` has a latency of 3 and a throughput of 1 on Intel since Nehalem and on AMD since Zen: one stream runs at
// a third of what the unit can do. So three streams run side by side, and a carry-less multiply joins them, as in V. Gopal
// et al., "Fast CRC Computation for iSCSI Polynomial Using CRC32 Instruction" (Intel, 2011).
#if defined(__x86_64__)
#include <immintrin.h>

// Bytes of one of three streams: long ones for blocks, short ones for frames and the tails of blocks.
enum { long_stream = 1024, short_stream = 128 };

// For streams of n bytes, x^(8n - 33) and x^(16n - 33), reflected. They move a checksum past one and past two streams.
typedef struct {
    uint32_t past_one, past_two;
} stream_constants;

static stream_constants long_constants, short_constants;

// x^n modulo the polynomial, reflected: bit 31 is x^0.
static uint32_t power_of_x(int n) {
    uint32_t value = 0x80000000u;
    for (int i = 0; i < n; i++) value = (value >> 1) ^ ((value & 1) ? 0x82F63B78u : 0);
    return value;
}

static stream_constants constants(int stream) {
    return (stream_constants){power_of_x(8 * stream - 33), power_of_x(16 * stream - 33)};
}

#pragma clang attribute push(__attribute__((target("sse4.2,pclmul"))), apply_to = function)

static inline uint64_t word_at(const unsigned char *at) {
    uint64_t word;
    memcpy(&word, at, 8);
    return word;
}

// crc * x^(8n) for the constant of n bytes. The product of two reflected numbers is off by a factor of x, and the reduction
// by x^32.
static inline uint64_t moved(uint64_t crc, uint32_t constant) {
    const __m128i product = _mm_clmulepi64_si128(_mm_cvtsi64_si128((long long)crc), _mm_cvtsi32_si128((int)constant), 0);
    return _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(product));
}

// Takes three streams at a time, as long as there are three.
static inline uint64_t three_streams(uint64_t crc, const unsigned char **bytes, size_t *count, size_t stream,
                                     stream_constants constants) {
    for (; *count >= 3 * stream; *bytes += 3 * stream, *count -= 3 * stream) {
        const unsigned char *at = *bytes;
        uint64_t second = 0, third = 0;
        for (size_t line = 0; line < stream; line += 64) {
            // Streams are too short for hardware prefetch, so the next three are prefetched here.
            for (size_t s = 3; s < 6; s++) _mm_prefetch((const char *)at + s * stream + line, _MM_HINT_T0);
            for (size_t i = line; i < line + 64; i += 8) {
                crc = _mm_crc32_u64(crc, word_at(at + i));
                second = _mm_crc32_u64(second, word_at(at + stream + i));
                third = _mm_crc32_u64(third, word_at(at + 2 * stream + i));
            }
        }
        crc = moved(crc, constants.past_two) ^ moved(second, constants.past_one) ^ third;
    }
    return crc;
}

uint32_t dcp_crc32c_sse42(uint32_t crc, const void *bytes, size_t count) {
    const unsigned char *at = bytes;
    uint64_t value = (uint32_t)~crc;
    value = three_streams(value, &at, &count, long_stream, long_constants);
    value = three_streams(value, &at, &count, short_stream, short_constants);
    for (; count >= 8; at += 8, count -= 8) value = _mm_crc32_u64(value, word_at(at));
    uint32_t tail = (uint32_t)value;
    for (; count > 0; at++, count--) tail = _mm_crc32_u8(tail, *at);
    return ~tail;
}

#pragma clang attribute pop

int dcp_crc32c_sse42_prepare(void) {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("sse4.2") || !__builtin_cpu_supports("pclmul")) return 0;
    long_constants = constants(long_stream);
    short_constants = constants(short_stream);
    return 1;
}
#else
uint32_t dcp_crc32c_sse42(uint32_t crc, const void *bytes, size_t count) {
    return dcp_crc32c_scalar(crc, bytes, count);
}

int dcp_crc32c_sse42_prepare(void) { return 0; }
#endif
