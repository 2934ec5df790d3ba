// SPDX-License-Identifier: Apache-2.0
// Multiply-adds on registers: how fast one thread can compute.
//
// There are twelve independent sums: two FMAs a cycle with a latency of four or five need ten. Each step replaces a sum s
// by s * a + b with a < 1, so it stays a normal number. An empty asm on each sum keeps the compiler from merging or
// hoisting any.
#include "CBenchmarkKernels.h"

enum { dcp_sums = 12 };

// The final sums go here, so that the compiler must compute them.
static volatile float sink;

#if defined(__x86_64__)
#include <immintrin.h>

#pragma clang attribute push(__attribute__((target("avx512f"))), apply_to = function)
static uint64_t multiply_add_512(uint64_t iterations) {
    const __m512 a = _mm512_set1_ps(0.75f), b = _mm512_set1_ps(0.125f);
    __m512 s[dcp_sums];
    for (int i = 0; i < dcp_sums; i++) s[i] = _mm512_set1_ps((float)i);
    for (uint64_t n = 0; n < iterations; n++) {
#pragma clang loop unroll(full)
        for (int i = 0; i < dcp_sums; i++) {
            s[i] = _mm512_fmadd_ps(s[i], a, b);
            __asm__ volatile("" : "+v"(s[i]));
        }
    }
    for (int i = 1; i < dcp_sums; i++) s[0] = _mm512_add_ps(s[0], s[i]);
    sink = _mm512_reduce_add_ps(s[0]);
    return iterations * dcp_sums * 16 * 2;
}
#pragma clang attribute pop

#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16"))), apply_to = function)
static uint64_t multiply_add_bf16_512(uint64_t iterations) {
    // 0x3F00 is 0.5 in bf16. The sums grow by 0.5 an iteration until they round to themselves, and are always normal
    // numbers.
    const __m512bh a = (__m512bh)_mm512_set1_epi16(0x3F00), b = (__m512bh)_mm512_set1_epi16(0x3F00);
    __m512 s[dcp_sums];
    for (int i = 0; i < dcp_sums; i++) s[i] = _mm512_set1_ps((float)i);
    for (uint64_t n = 0; n < iterations; n++) {
#pragma clang loop unroll(full)
        for (int i = 0; i < dcp_sums; i++) {
            s[i] = _mm512_dpbf16_ps(s[i], a, b);
            __asm__ volatile("" : "+v"(s[i]));
        }
    }
    for (int i = 1; i < dcp_sums; i++) s[0] = _mm512_add_ps(s[0], s[i]);
    sink = _mm512_reduce_add_ps(s[0]);
    return iterations * dcp_sums * 16 * 4;
}
#pragma clang attribute pop

#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
static uint64_t multiply_add_256(uint64_t iterations) {
    const __m256 a = _mm256_set1_ps(0.75f), b = _mm256_set1_ps(0.125f);
    __m256 s[dcp_sums];
    for (int i = 0; i < dcp_sums; i++) s[i] = _mm256_set1_ps((float)i);
    for (uint64_t n = 0; n < iterations; n++) {
#pragma clang loop unroll(full)
        for (int i = 0; i < dcp_sums; i++) {
            s[i] = _mm256_fmadd_ps(s[i], a, b);
            __asm__ volatile("" : "+x"(s[i]));
        }
    }
    float all[8];
    for (int i = 1; i < dcp_sums; i++) s[0] = _mm256_add_ps(s[0], s[i]);
    _mm256_storeu_ps(all, s[0]);
    sink = all[0] + all[1] + all[2] + all[3] + all[4] + all[5] + all[6] + all[7];
    return iterations * dcp_sums * 8 * 2;
}
#pragma clang attribute pop
#endif

// For any machine: vectors of four floats, which the baseline of every 64-bit CPU has.
typedef float dcp_four __attribute__((vector_size(16)));

static uint64_t multiply_add_portable(uint64_t iterations) {
    dcp_four a = {0.75f, 0.75f, 0.75f, 0.75f}, b = {0.125f, 0.125f, 0.125f, 0.125f};
    __asm__ volatile("" : "+m"(a), "+m"(b));
    dcp_four s[dcp_sums];
    for (int i = 0; i < dcp_sums; i++) s[i] = a * (float)i;
    for (uint64_t n = 0; n < iterations; n++) {
#pragma clang loop unroll(full)
        for (int i = 0; i < dcp_sums; i++) s[i] = s[i] * a + b;
        // Between iterations the compiler knows nothing about the constants, so it cannot merge two iterations.
        __asm__ volatile("" : : : "memory");
    }
    for (int i = 1; i < dcp_sums; i++) s[0] = s[0] + s[i];
    sink = s[0][0] + s[0][1] + s[0][2] + s[0][3];
    return iterations * dcp_sums * 4 * 2;
}

static uint64_t (*f32)(uint64_t) = multiply_add_portable;
static uint64_t (*bf16)(uint64_t);
static const char *width = "portable";

__attribute__((constructor)) static void probe(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        f32 = multiply_add_256;
        width = "256-bit";
    }
    if (__builtin_cpu_supports("avx512f")) {
        f32 = multiply_add_512;
        width = "512-bit";
    }
    if (__builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vl")
        && __builtin_cpu_supports("avx512bw"))
        bf16 = multiply_add_bf16_512;
#endif
}

uint64_t dcp_multiply_add_f32(uint64_t iterations) { return f32(iterations); }
uint64_t dcp_multiply_add_bf16(uint64_t iterations) { return bf16 ? bf16(iterations) : 0; }
const char *dcp_multiply_add_width(void) { return width; }
