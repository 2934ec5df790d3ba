// SPDX-License-Identifier: Apache-2.0
// The table of kernels. A new instruction set gets a line in probe(), after a check that the machine supports it.
#include "dispatch.h"

#include <stddef.h>

#include "bf16_rate.h"

#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#define DCP_ATTEND(name, number, bytes, interleaved, set) [number] = dcp_attend_##name##_##set,
#define DCP_KERNELS(set, width)                                                                                        \
    (dcp_kernel_table) {                                                                                               \
        .name = #set, .lanes = width,                                                                                  \
        .attend = {DCP_CACHE_FORMATS(DCP_ATTEND, set)},                                                                \
        .write_panels = dcp_panel_write_##set, .read_panels = dcp_panel_read_##set,                                    \
        .rows_to_f32 = dcp_rows_to_f32_##set, .values_of_keys = dcp_values_of_keys_##set,                              \
    }

static dcp_kernel_table available[6];
static int available_count;

static void add(dcp_kernel_table table) { available[available_count++] = table; }

// A set in which one format has another kernel, one that takes its queries from query_terms.
static dcp_kernel_table with(dcp_kernel_table table, const char *name, int format, dcp_attention_kernel *kernel) {
    table.name = name;
    table.attend[format] = kernel;
    table.reads_terms |= 1 << format;
    return table;
}

#if defined(__x86_64__)
static dcp_kernel_table with_vnni(dcp_kernel_table table) {
    if (__builtin_cpu_supports("gfni")) table.attend[dcp_fp8] = dcp_attend_fp8_avx512gfni;
    return with(table, "avx512vnni", dcp_int8, dcp_attend_int8_avx512vnni);
}

static dcp_kernel_table with_bf16(dcp_kernel_table table) {
    table = with(table, "avx512bf16", dcp_bf16, dcp_attend_bf16_avx512bf16);
    if (!__builtin_cpu_supports("avx512vbmi")) return table;
    return with(table, table.name, dcp_fp8, dcp_attend_fp8_avx512bf16);
}

// avx512bf16 is the fastest set where VDPBF16PS pays. Where it does not, the set can still be forced.
static void add_avx512(void) {
    const dcp_kernel_table avx512 = DCP_KERNELS(avx512, 16);
    const int vnni = __builtin_cpu_supports("avx512vnni"), bf16 = __builtin_cpu_supports("avx512bf16");
    const dcp_kernel_table most = vnni ? with_vnni(avx512) : avx512;
    const int pays = bf16 && dcp_bf16_pays();
    if (bf16 && !pays) add(with_bf16(most));
    add(avx512);
    if (vnni) add(most);
    if (pays) add(with_bf16(most));
}
#endif

// __builtin_cpu_supports checks the CPU and, with XGETBV, whether the operating system saves the registers.
__attribute__((constructor)) static void probe(void) {
    add(DCP_KERNELS(scalar, 4));
#if defined(__x86_64__)
    __builtin_cpu_init();
    const int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    if (!avx2) return;
    add(DCP_KERNELS(avx2, 8));
    if (__builtin_cpu_supports("avxvnni")) {
        add(with(DCP_KERNELS(avx2, 8), "avx2vnni", dcp_int8, dcp_attend_int8_avx2vnni));
    }
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")
        && __builtin_cpu_supports("avx512dq")) {
        add_avx512();
    }
#elif defined(__aarch64__)
    add(DCP_KERNELS(neon, 4));
    if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) {
        add(with(DCP_KERNELS(neon, 4), "neondot", dcp_int8, dcp_attend_int8_neondot));
    }
#endif
}

int dcp_kernels_count(void) { return available_count; }

const dcp_kernel_table *dcp_kernels(int index) {
    return index >= 0 && index < available_count ? &available[index] : NULL;
}

void dcp_attend_block(const dcp_kernel_table *kernels, int32_t format, const dcp_attention_rows *rows,
                      const void *keys, const void *values, dcp_token_ranges visible, dcp_ahead ahead) {
    kernels->attend[dcp_checked_format(format)](rows, keys, values, visible, ahead);
}

// Measured on Zen 5 with 1 to 16 rows, D 64 to 256 and all formats. With few multiplications for each line of 64 bytes, 12
// KiB are about best; 24 KiB evict lines from the first-level cache and cost up to 7 %. With more of them, a panel is read
// in bursts, by the first tile of rows and of dimensions, and 12 KiB cost 5 to 20 %.
int64_t dcp_ahead_bytes(const dcp_kernel_table *kernels, int32_t format, const dcp_attention_rows *rows,
                        int64_t head_bytes) {
    const int64_t near = 12 << 10, far = 20 << 10;
    const int reads_terms = dcp_reads_terms(kernels, format);
    const int64_t weight_terms = rows->light_share > 0 && rows->rows > 4 ? 1 : 2;
    // The multiplications for a line of keys and a line of values, so twice the average.
    const int64_t multiplications =
        reads_terms ? rows->rows * (rows->terms + weight_terms)
                    : 2 * rows->rows * 64 / dcp_element_bytes(format) / kernels->lanes;
    if (multiplications < 2 * 7) return near;
    const int64_t burst = (8 << 10) + head_bytes / 2;
    return burst < far ? burst : far;
}

int dcp_panel_write(const dcp_kernel_table *kernels, const dcp_panel_shape *shape, int32_t row_type, const void *keys,
                    const void *values, int64_t row_tokens, const uint32_t *source, int64_t count, void *payload,
                    int64_t first, int streams) {
    return kernels->write_panels(shape, row_type, keys, values, row_tokens, source, count, payload, first, streams);
}

void dcp_panel_read(const dcp_kernel_table *kernels, const dcp_panel_shape *shape, const void *payload, int64_t first,
                    int64_t count, void *keys, void *values) {
    kernels->read_panels(shape, payload, first, count, keys, values);
}

int dcp_rows_to_f32(const dcp_kernel_table *kernels, int32_t row_type, const void *rows, int64_t count, float *out) {
    return kernels->rows_to_f32(row_type, rows, count, out);
}

void dcp_values_of_keys(const dcp_kernel_table *kernels, int32_t format, const void *keys, int64_t block_tokens,
                        int64_t value_dim, int64_t tokens, void *values, int64_t value_tokens) {
    kernels->values_of_keys(format, keys, block_tokens, value_dim, tokens, values, value_tokens);
}
