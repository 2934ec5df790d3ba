// SPDX-License-Identifier: Apache-2.0
// Whether VDPBF16PS is worth its rounding: its speed differs by a factor of four between CPUs.
//
// Zen 4 and Zen 5 start it as often as a multiply-add of Float32, so it does twice the work. On Emerald Rapids it takes the
// time of four multiply-adds, so Float32 does twice the work there. No flag of the CPU tells which is the case, and a list
// of models would be wrong for future ones. So both instructions are timed on registers, which takes 20 us once in a
// process. The bits of results depend on the answer, but the answer is stable: the rates are a factor of two from the
// threshold on either side, and the shortest of 16 attempts is one that nothing interrupted.
#include "bf16_rate.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <stdint.h>

enum { attempts = 16, iterations = 64 };

// Eight independent sums hide the latency of either instruction. The whole loop is assembly, so that it is the same in
// every build.
#define DCP_NEXT(instruction, sum) instruction " %9, %9, %" #sum "\n\t"
#define DCP_TIME(instruction)                                                                                          \
    const __m512 zero = _mm512_setzero_ps();                                                                           \
    __m512 a = zero, b = zero, c = zero, d = zero, e = zero, f = zero, g = zero, h = zero;                             \
    int left = iterations;                                                                                             \
    const uint64_t start = __rdtsc();                                                                                  \
    __asm__ volatile("1:\n\t" DCP_NEXT(instruction, 0) DCP_NEXT(instruction, 1) DCP_NEXT(instruction, 2)               \
                         DCP_NEXT(instruction, 3) DCP_NEXT(instruction, 4) DCP_NEXT(instruction, 5)                    \
                             DCP_NEXT(instruction, 6) DCP_NEXT(instruction, 7) "decl %8\n\tjnz 1b"                     \
                     : "+v"(a), "+v"(b), "+v"(c), "+v"(d), "+v"(e), "+v"(f), "+v"(g), "+v"(h), "+r"(left)              \
                     : "v"(zero)                                                                                       \
                     : "cc");                                                                                          \
    return __rdtsc() - start

#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16"))), apply_to = function)
static uint64_t time_of_dot_products(void) { DCP_TIME("vdpbf16ps"); }
static uint64_t time_of_multiply_adds(void) { DCP_TIME("vfmadd231ps"); }
#pragma clang attribute pop

int dcp_bf16_pays(void) {
    uint64_t dot_products = UINT64_MAX, multiply_adds = UINT64_MAX;
    for (int i = 0; i < attempts; i++) {
        const uint64_t dots = time_of_dot_products(), adds = time_of_multiply_adds();
        if (dots < dot_products) dot_products = dots;
        if (adds < multiply_adds) multiply_adds = adds;
    }
    return dot_products < 2 * multiply_adds;
}
#endif
