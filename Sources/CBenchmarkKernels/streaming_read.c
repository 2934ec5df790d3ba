// SPDX-License-Identifier: Apache-2.0
// Streaming reads: how fast one thread can get bytes from memory.
//
// A thread's bandwidth is the lines it has in flight divided by the latency. Out-of-order execution and the hardware
// prefetchers keep a number of them in flight that depends on the loads' width, on whether software prefetches run
// ahead and into which cache, and on how many streams a buffer is read as. No single way is the best everywhere.
#include <string.h>

#include "CBenchmarkKernels.h"

typedef uint64_t dcp_read_function(const void *bytes, size_t count);

// Eight accumulators: XOR has a latency of one, so loads alone set the pace.
#define DCP_READ_WAY(name, hint, ahead)                                                                                \
    static uint64_t name(const void *bytes, size_t count) {                                                            \
        const char *at = bytes;                                                                                        \
        dcp_vec a[8];                                                                                                  \
        for (int i = 0; i < 8; i++) a[i] = vec_zero();                                                                 \
        const char *const end = at + count / (8 * dcp_vec_bytes) * (8 * dcp_vec_bytes);                                \
        for (; at < end; at += 8 * dcp_vec_bytes) {                                                                    \
            if ((ahead) > 0)                                                                                           \
                for (int line = 0; line < 8 * dcp_vec_bytes; line += 64)                                               \
                    __builtin_prefetch(at + (ahead) + line, 0, hint);                                                  \
            for (int i = 0; i < 8; i++) a[i] = vec_xor(a[i], vec_load(at + i * dcp_vec_bytes));                        \
        }                                                                                                              \
        for (const char *rest = at; rest + 64 <= (const char *)bytes + count; rest += 64)                              \
            for (int i = 0; i < 64; i += dcp_vec_bytes) a[0] = vec_xor(a[0], vec_load(rest + i));                      \
        for (int i = 1; i < 8; i++) a[0] = vec_xor(a[0], a[i]);                                                        \
        return fold(a[0]);                                                                                             \
    }

// Reads the buffer as four streams side by side, so that more prefetchers are at work. Blocks of a store are a few hundred
// KiB.
#define DCP_READ_STREAMS(name)                                                                                         \
    static uint64_t name(const void *bytes, size_t count) {                                                            \
        const char *const at = bytes;                                                                                  \
        const size_t part = count / 4 / (2 * 64) * (2 * 64);                                                           \
        dcp_vec a[8];                                                                                                  \
        for (int i = 0; i < 8; i++) a[i] = vec_zero();                                                                 \
        for (size_t offset = 0; offset < part; offset += 2 * dcp_vec_bytes)                                            \
            for (int i = 0; i < 4; i++) {                                                                              \
                const char *stream = at + (size_t)i * part + offset;                                                   \
                a[2 * i] = vec_xor(a[2 * i], vec_load(stream));                                                        \
                a[2 * i + 1] = vec_xor(a[2 * i + 1], vec_load(stream + dcp_vec_bytes));                                \
            }                                                                                                          \
        for (const char *rest = at + 4 * part; rest + 64 <= at + count; rest += 64)                                    \
            for (int i = 0; i < 64; i += dcp_vec_bytes) a[0] = vec_xor(a[0], vec_load(rest + i));                      \
        for (int i = 1; i < 8; i++) a[0] = vec_xor(a[0], a[i]);                                                        \
        return fold(a[0]);                                                                                             \
    }

#if defined(__x86_64__)
#include <immintrin.h>

#pragma clang attribute push(__attribute__((target("avx512f"))), apply_to = function)
#define dcp_vec __m512i
#define dcp_vec_bytes 64
#define vec_zero() _mm512_setzero_si512()
#define vec_load(at) _mm512_load_si512(at)
#define vec_xor(a, b) _mm512_xor_si512(a, b)
static uint64_t fold_512(__m512i a) {
    uint64_t words[8];
    _mm512_storeu_si512(words, a);
    return words[0] ^ words[1] ^ words[2] ^ words[3] ^ words[4] ^ words[5] ^ words[6] ^ words[7];
}
#define fold(a) fold_512(a)
DCP_READ_WAY(read_512, 0, 0)
DCP_READ_WAY(read_512_l1_1024, 3, 1024)
DCP_READ_WAY(read_512_l1_4096, 3, 4096)
DCP_READ_WAY(read_512_l2_4096, 2, 4096)
DCP_READ_WAY(read_512_l2_16384, 2, 16384)
DCP_READ_STREAMS(read_512_streams)
#undef dcp_vec
#undef dcp_vec_bytes
#undef vec_zero
#undef vec_load
#undef vec_xor
#undef fold
#pragma clang attribute pop

#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#define dcp_vec __m256i
#define dcp_vec_bytes 32
#define vec_zero() _mm256_setzero_si256()
#define vec_load(at) _mm256_load_si256((const __m256i *)(const void *)(at))
#define vec_xor(a, b) _mm256_xor_si256(a, b)
static uint64_t fold_256(__m256i a) {
    uint64_t words[4];
    _mm256_storeu_si256((__m256i *)(void *)words, a);
    return words[0] ^ words[1] ^ words[2] ^ words[3];
}
#define fold(a) fold_256(a)
DCP_READ_WAY(read_256, 0, 0)
DCP_READ_WAY(read_256_l1_1024, 3, 1024)
DCP_READ_WAY(read_256_l2_4096, 2, 4096)
DCP_READ_STREAMS(read_256_streams)
#undef dcp_vec
#undef dcp_vec_bytes
#undef vec_zero
#undef vec_load
#undef vec_xor
#undef fold
#pragma clang attribute pop
#endif

// Words in plain C, which the compiler turns into whatever the baseline machine has.
static uint64_t read_words(const void *bytes, size_t count) {
    uint64_t a[8] = {0};
    const char *at = bytes;
    for (const char *end = at + count / 64 * 64; at < end; at += 64)
        for (int i = 0; i < 8; i++) {
            uint64_t word;
            memcpy(&word, at + i * 8, 8);
            a[i] ^= word;
        }
    return a[0] ^ a[1] ^ a[2] ^ a[3] ^ a[4] ^ a[5] ^ a[6] ^ a[7];
}

typedef struct {
    const char *name;
    dcp_read_function *read;
} dcp_read_way;

static dcp_read_way ways[12];
static int ways_count;

static void add(const char *name, dcp_read_function *read) { ways[ways_count++] = (dcp_read_way){name, read}; }

__attribute__((constructor)) static void probe(void) {
    add("64-bit", read_words);
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2")) {
        add("256-bit", read_256);
        add("256-bit, prefetch to L1 1 KiB ahead", read_256_l1_1024);
        add("256-bit, prefetch to L2 4 KiB ahead", read_256_l2_4096);
        add("256-bit, four streams", read_256_streams);
    }
    if (__builtin_cpu_supports("avx512f")) {
        add("512-bit", read_512);
        add("512-bit, prefetch to L1 1 KiB ahead", read_512_l1_1024);
        add("512-bit, prefetch to L1 4 KiB ahead", read_512_l1_4096);
        add("512-bit, prefetch to L2 4 KiB ahead", read_512_l2_4096);
        add("512-bit, prefetch to L2 16 KiB ahead", read_512_l2_16384);
        add("512-bit, four streams", read_512_streams);
    }
#endif
}

int dcp_read_ways(void) { return ways_count; }

const char *dcp_read_way_name(int way) { return way >= 0 && way < ways_count ? ways[way].name : NULL; }

uint64_t dcp_read_stream(int way, const void *bytes, size_t count) { return ways[way].read(bytes, count); }
