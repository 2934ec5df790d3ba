// SPDX-License-Identifier: Apache-2.0
// Compares attention kernels with their scalar twins and with attention in float64.
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../../../Sources/CAttentionKernels/convert.h"
#include "../../../Sources/CAttentionKernels/panels_bytes.h"
#include "check.h"

enum { blocks_max = 3, dim_max = 320, block_tokens_max = 144 };

// Rows over a few blocks of one KV head.
typedef struct {
    dcp_panel_shape shape;
    int rows, blocks, repeats;
    float soft_cap, light_share;
    guarded panels[blocks_max];
    // The tokens of a block that each row sees; the same for all rows if `is_all`.
    int32_t first[blocks_max][dcp_attention_rows_max], end[blocks_max][dcp_attention_rows_max];
    int is_all;
    float queries[dcp_attention_rows_max * dim_max]; // rotated for int8; plain_queries are not
    float plain_queries[dcp_attention_rows_max * dim_max];
} problem;

typedef struct {
    float maximum[dcp_attention_rows_max], sum[dcp_attention_rows_max], output[dcp_attention_rows_max * dim_max];
} states;

static const void *values_of(const problem *p, int block) {
    return (const char *)p->panels[block].base + dcp_key_panel_bytes(&p->shape);
}

static void run(const problem *p, const dcp_kernel_table *kernels, states *s) {
    memset(s, 0, sizeof *s);
    for (int r = 0; r < p->rows; r++) s->maximum[r] = -INFINITY;
    static _Alignas(64) uint16_t terms[3 * dcp_attention_rows_max * dim_max];
    const int64_t elements = (int64_t)p->rows * p->shape.key_dim;
    int32_t term_count = 1;
    if (p->shape.format == dcp_int8) {
        dcp_byte_queries(p->plain_queries, p->rows, p->shape.key_dim, terms);
    } else {
        term_count = dcp_split_queries(p->queries, elements, terms, elements);
    }
    const dcp_attention_rows rows = {
        .rows = p->rows, .key_dim = p->shape.key_dim, .value_dim = p->shape.value_dim,
        .block_tokens = p->shape.block_tokens, .value_tokens = p->shape.block_tokens, .terms = term_count, .scale = 0.5f,
        .soft_cap = p->soft_cap, .light_share = p->light_share, .queries = p->queries,
        .plain_queries = p->plain_queries, .query_terms = (const uint32_t *)terms, .maximum = s->maximum, .sum = s->sum, .output = s->output};
    for (int i = 0; i < p->blocks * p->repeats; i++) {
        const int b = i % p->blocks;
        dcp_ahead ahead = {0};
        if (b + 1 < p->blocks) {
            ahead.at = (const char *)p->panels[b].base + 64;
            ahead.end = (const char *)p->panels[b].base + p->panels[b].byte_count;
            ahead.then = p->panels[b + 1].base;
            ahead.then_end = ahead.then + p->panels[b + 1].byte_count;
        }
        const dcp_token_ranges visible = p->is_all ? (dcp_token_ranges){NULL, NULL, p->end[b][0]}
                                                   : (dcp_token_ranges){p->first[b], p->end[b], 0};
        dcp_attend_block(kernels, p->shape.format, &rows, p->panels[b].base, values_of(p, b), visible, ahead);
    }
}

static double element(int type, const void *panel, int64_t index) {
    if (type == dcp_f32) return ((const float *)panel)[index];
    const uint16_t bits = ((const uint16_t *)panel)[index];
    return type == dcp_bf16 ? dcp_bf16_to_f32(bits) : dcp_f16_to_f32(bits);
}

// A number of a panel. Keys of int8 are rotated, as the panel holds them, and without what their words keep.
static double key_element(const dcp_panel_shape *s, const void *panel, int64_t token, int64_t dim) {
    const int64_t tokens = s->block_tokens;
    if (dcp_has_scales(s->format)) {
        const uint8_t byte = ((const uint8_t *)panel)[dcp_key_byte(s->format, tokens, token, dim)];
        return (double)dcp_byte_value(s->format, byte ^ dcp_key_offset(s->format))
               * dcp_panel_scales(panel, s->key_dim, tokens)[token];
    }
    const int64_t index = s->format == dcp_bf16 ? (dim / 2 * tokens + token) * 2 + dim % 2 : dim * tokens + token;
    return element(s->format, panel, index);
}
static double value_element(const dcp_panel_shape *s, const void *panel, int64_t token, int64_t dim) {
    const int64_t tokens = s->block_tokens;
    if (dcp_has_scales(s->format)) {
        const uint8_t byte = ((const uint8_t *)panel)[dcp_value_byte(s->format, tokens, s->value_dim, token, dim)];
        return (double)dcp_byte_value(s->format, byte) * dcp_panel_scales(panel, s->value_dim, tokens)[token];
    }
    const int64_t strip = dcp_strip_of(dim), width = dcp_strip_width(strip, s->value_dim), place = dim - strip;
    const int64_t index = s->format == dcp_bf16 ? (token / 2 * width + place) * 2 + token % 2 : token * width + place;
    return element(s->format, panel, strip * tokens + index);
}

// Computes the output of one row, and returns its log-sum-exp.
static double reference(const problem *p, int row, double *output) {
    static double scores[blocks_max * block_tokens_max];
    const int64_t key_dim = p->shape.key_dim, value_dim = p->shape.value_dim;
    double highest = -INFINITY, sum = 0;
    for (int b = 0; b < p->blocks; b++) {
        for (int64_t t = p->first[b][row]; t < p->end[b][row]; t++) {
            double score = 0;
            for (int64_t d = 0; d < key_dim; d++) {
                score += p->queries[row * key_dim + d] * key_element(&p->shape, p->panels[b].base, t, d);
            }
            if (dcp_has_words(p->shape.format)) {
                const uint32_t word = dcp_panel_words(p->panels[b].base, key_dim, p->shape.block_tokens)[t];
                if (word != 0) score += (double)p->plain_queries[row * key_dim + dcp_apart_dim(word)] * dcp_apart_value(word);
            }
            score *= 0.5;
            if (p->soft_cap > 0) score = p->soft_cap * tanh(score / p->soft_cap);
            scores[b * block_tokens_max + t] = score;
            highest = fmax(highest, score);
        }
    }
    memset(output, 0, sizeof *output * (size_t)value_dim);
    for (int b = 0; b < p->blocks; b++) {
        for (int64_t t = p->first[b][row]; t < p->end[b][row]; t++) {
            const double weight = exp(scores[b * block_tokens_max + t] - highest);
            sum += weight;
            for (int64_t d = 0; d < value_dim; d++) {
                output[d] += weight * value_element(&p->shape, values_of(p, b), t, d);
            }
        }
    }
    if (sum == 0) return -INFINITY;
    for (int64_t d = 0; d < value_dim; d++) output[d] /= sum;
    return highest + log(sum);
}

// Tokens before and after those that any row sees are NaN.
static void fill_block(problem *p, int block) {
    int least = p->shape.block_tokens, most = 0;
    for (int r = 0; r < p->rows; r++) {
        most = p->end[block][r] > most ? p->end[block][r] : most;
        if (p->first[block][r] < p->end[block][r] && p->first[block][r] < least) least = p->first[block][r];
    }
    if (least > most) least = most;
    memset(p->panels[block].base, 0xFF, p->panels[block].byte_count);
    static float keys[block_tokens_max * dim_max], values[block_tokens_max * dim_max];
    static uint32_t source[block_tokens_max];
    for (int i = 0; i < most * p->shape.key_dim; i++) keys[i] = next_float();
    for (int i = 0; i < most * p->shape.value_dim; i++) values[i] = next_float();
    if (p->shape.format == dcp_fp8 && next_random() % 2) {
        // Zeros, and numbers that are denormal as e4m3, which kernels convert in another way.
        for (int i = 0; i < most * p->shape.key_dim; i++) keys[i] = ldexpf(keys[i], -(int)(next_random() % 24));
        for (int i = 0; i < most * p->shape.value_dim; i++) values[i] = ldexpf(values[i], -(int)(next_random() % 24));
    }
    // Numbers that stand out: in one dimension of all tokens, or of one in three, or in different ones.
    const uint64_t outliers = p->shape.format == dcp_int8 ? next_random() % 4 : 0;
    const int one = (int)(next_random() % (uint64_t)p->shape.key_dim);
    for (int i = 0; i < most && outliers > 0; i++) {
        if (outliers == 2 && next_random() % 3 != 0) continue;
        const int dim = outliers == 3 ? (int)(next_random() % (uint64_t)p->shape.key_dim) : one;
        keys[i * p->shape.key_dim + dim] = 30 + next_float();
    }
    for (int i = 0; i < most; i++) source[i] = (uint32_t)i;
    dcp_panel_write(dcp_kernels(0), &p->shape, dcp_f32, keys, values, most, source + least, most - least,
                    p->panels[block].base, least, 0);
}

// The largest norm of a key that is multiplied as bytes, over that of a key with elements below 1. It is above 1 where a
// number that stands out has no word.
static double byte_norm(const problem *p) {
    double most = 1;
    for (int b = 0; b < p->blocks; b++) {
        for (int64_t t = 0; t < p->shape.block_tokens; t++) {
            double size = 0;
            for (int64_t d = 0; d < p->shape.key_dim; d++) size += pow(key_element(&p->shape, p->panels[b].base, t, d), 2);
            // Tokens that no row sees are NaN.
            most = fmax(most, sqrt(size / (p->shape.key_dim / 3.0)));
        }
    }
    return most;
}

static void compare(const dcp_kernel_table *kernels, const problem *p, const states *ours, const states *twin) {
    // Elements of scaled queries and of keys are below 1, so the product of two norms is about Dk / 3. Scores are off by a
    // few units of 2^-24 of that. Where a number of a key of int8 stands out, its norm is about 31 more.
    const double outlier = p->shape.format == dcp_int8 ? 31 * sqrt(p->shape.key_dim / 3.0) : 0;
    const double exact_bound = 2e-6 + 4e-7 * (p->shape.key_dim / 3 + outlier);
    // The error of weights as one or two bf16, with values below 1.
    const int reads_terms = dcp_reads_terms(kernels, p->shape.format);
    const int reads_bytes = reads_terms && p->shape.format == dcp_int8;
    // As 16-bit numbers, the weights of 64 tokens are each off by at most half a unit, and so are queries.
    const double weight_error = !reads_terms      ? 0
                                : reads_bytes     ? 64 * 0.5 / 65535
                                : p->light_share > 0 ? 0x1p-7
                                                     : 0x1p-17;
    const double norm = reads_bytes ? byte_norm(p) : 1;
    for (int r = 0; r < p->rows; r++) {
        double most = 0;
        for (int d = 0; d < p->shape.key_dim; d++) most = fmax(most, fabs(p->queries[r * p->shape.key_dim + d]));
        const double bound = exact_bound + (reads_bytes ? 0.5 * most / 32639 * sqrt(p->shape.key_dim) * norm : 0);
        double output[dim_max], worst = 0, worst_twin = 0;
        const double lse = reference(p, r, output);
        const int is_empty = lse == -INFINITY;
        check(is_empty == (ours->sum[r] == 0) && is_empty == (ours->maximum[r] == -INFINITY), "row %d: empty or not", r);
        if (is_empty) continue;
        const double off = fabs(ours->maximum[r] + log(ldexp(ours->sum[r], dcp_weight_shift)) - lse);
        const double off_twin = fabs(ours->sum[r] - twin->sum[r]) / twin->sum[r];
        for (int64_t d = 0; d < p->shape.value_dim; d++) {
            const float mine = ours->output[r * p->shape.value_dim + d], other = twin->output[r * p->shape.value_dim + d];
            worst = fmax(worst, fabs(mine / ours->sum[r] - output[d]));
            worst_twin = fmax(worst_twin, fabs(mine - other) / twin->sum[r]);
            if (isnan(mine)) worst = INFINITY;
        }
        check(off <= bound && worst <= bound + weight_error && off_twin <= 2 * bound
                  && worst_twin <= 2 * bound + weight_error,
              "type %d, dims %d and %d, block %d, row %d of %d, soft cap %g: lse off by %g, output by %g, twin by %g, %g",
              p->shape.format, p->shape.key_dim, p->shape.value_dim, p->shape.block_tokens, r, p->rows, p->soft_cap,
              off, worst, off_twin, worst_twin);
    }
}

// The set whose kernel for a format widens numbers in another way, and otherwise computes the same, to the bit; or NULL.
static const dcp_kernel_table *same_widened(const dcp_kernel_table *kernels, int format) {
    if (format != dcp_fp8 || kernels->lanes != 16 || dcp_reads_terms(kernels, format)) return NULL;
    for (int i = 0; dcp_kernels(i) != NULL; i++) {
        if (strcmp(dcp_kernels(i)->name, "avx512") == 0 && dcp_kernels(i) != kernels) return dcp_kernels(i);
    }
    return NULL;
}

static void check_problem(const dcp_kernel_table *kernels, problem *p) {
    const uint64_t bytes = (uint64_t)dcp_head_bytes(&p->shape);
    for (int i = 0; i < p->rows * p->shape.key_dim; i++) p->queries[i] = p->plain_queries[i] = 2 * next_float();
    if (p->shape.format == dcp_int8) dcp_rotate_rows(p->queries, p->rows, p->shape.key_dim);
    for (int b = 0; b < p->blocks; b++) {
        p->panels[b] = guarded_make(bytes);
        // Each row sees all tokens, none, or a random range.
        for (int r = 0; r < p->rows; r++) {
            const uint64_t kind = next_random() % 4;
            p->end[b][r] = kind == 0 ? 0 : kind == 1 ? p->shape.block_tokens
                                                     : (int)(next_random() % (uint64_t)(p->shape.block_tokens + 1));
            p->first[b][r] = next_random() % 2 ? 0 : (int)(next_random() % (uint64_t)(p->end[b][r] + 1));
            if (p->is_all) p->first[b][r] = 0, p->end[b][r] = p->end[b][0];
        }
        fill_block(p, b);
    }
    static states ours, twin;
    run(p, kernels, &ours);
    run(p, dcp_kernels(0), &twin);
    compare(kernels, p, &ours, &twin);
    const dcp_kernel_table *plain = same_widened(kernels, p->shape.format);
    if (plain != NULL) {
        run(p, plain, &twin);
        const size_t rows = (size_t)p->rows * sizeof(float);
        check(memcmp(ours.maximum, twin.maximum, rows) == 0 && memcmp(ours.sum, twin.sum, rows) == 0
                  && memcmp(ours.output, twin.output, rows * (size_t)p->shape.value_dim) == 0,
              "type %d, dims %d and %d, %d rows: not the bits of %s", p->shape.format, p->shape.key_dim,
              p->shape.value_dim, p->rows, plain->name);
    }
    for (int b = 0; b < p->blocks; b++) guarded_free(p->panels[b]);
}

// A score that is infinite, or a maximum of -inf, makes the sum of its row NaN, and that of no other row.
static void check_infinities(const dcp_kernel_table *kernels, problem *p) {
    p->shape = (dcp_panel_shape){dcp_f32, 1, 8, 8, 16};
    p->rows = 3, p->blocks = 1, p->light_share = 0, p->soft_cap = 0;
    for (int sign = -1; sign <= 1; sign += 2) {
        p->panels[0] = guarded_make(16 * 16 * 4);
        for (int r = 0; r < p->rows; r++) p->first[0][r] = 0, p->end[0][r] = 16;
        fill_block(p, 0);
        for (int i = 0; i < 8; i++) p->queries[i] = p->queries[16 + i] = next_float();
        for (int d = 0; d < 8; d++) p->queries[8 + d] = (float)sign * INFINITY;
        static states ours;
        run(p, kernels, &ours);
        check(isfinite(ours.sum[0]) && isnan(ours.sum[1]) && isfinite(ours.sum[2]), "queries of %d inf", sign);
        guarded_free(p->panels[0]);
    }
}

// With the largest values of a format, the sums of as many tokens as a state takes stay finite.
static void check_large_values(const dcp_kernel_table *kernels, problem *p) {
    static const float largest[] = {0, 0x1.FEp127f, 65504, FLT_MAX, FLT_MAX, FLT_MAX};
    for (int type = dcp_bf16; type < dcp_formats_end; type++) {
        for (int rows = 1; rows <= dcp_attention_rows_max; rows += 9) {
            p->shape = (dcp_panel_shape){type, 1, 8, 8, 64};
            p->rows = rows, p->blocks = 1, p->light_share = rows % 2 ? 0 : INFINITY, p->soft_cap = 0;
            p->panels[0] = guarded_make((uint64_t)dcp_head_bytes(&p->shape));
            for (int r = 0; r < rows; r++) p->first[0][r] = 0, p->end[0][r] = 64;
            fill_block(p, 0);
            for (int i = 0; i < rows * 8; i++) p->queries[i] = next_float();
            static float keys[64 * 8], values[64 * 8];
            static uint32_t source[64];
            for (int i = 0; i < 64 * 8; i++) keys[i] = 0, values[i] = i % 8 % 2 ? largest[type] : -largest[type];
            for (uint32_t i = 0; i < 64; i++) source[i] = i;
            dcp_panel_write(dcp_kernels(0), &p->shape, dcp_f32, keys, values, 64, source, 64, p->panels[0].base, 0, 0);
            static states ours;
            p->repeats = dcp_state_tokens_max / 64;
            run(p, kernels, &ours);
            p->repeats = 1;
            int finite = 1;
            for (int i = 0; i < rows * 8; i++) finite &= isfinite(ours.output[i]) != 0;
            check(finite && ours.sum[0] == 0.5f, "the largest values of type %d, %d rows", type, rows);
            guarded_free(p->panels[0]);
        }
    }
}

void check_attention(const dcp_kernel_table *kernels) {
    static const int dims[][2] = {{8, 8}, {10, 14}, {64, 64}, {72, 90}, {128, 128}, {256, 250}, {300, 290}};
    static const int block_tokens[] = {16, 48, 64, 144};
    static problem p;
    p.repeats = 1;
    check_infinities(kernels, &p);
    check_large_values(kernels, &p);
    for (int type = dcp_bf16; type < dcp_formats_end; type++) {
        for (unsigned d = 0; d < sizeof dims / sizeof dims[0]; d++) {
            for (unsigned b = 0; b < sizeof block_tokens / sizeof block_tokens[0]; b++) {
                for (int rows = 1; rows <= dcp_attention_rows_max; rows += 1 + (int)(next_random() % 4)) {
                    p.shape = (dcp_panel_shape){type, 1, dims_of(type, dims[d][0]), dims_of(type, dims[d][1]),
                                                block_tokens[b]};
                    p.rows = rows;
                    p.blocks = 1 + (int)(next_random() % blocks_max);
                    p.is_all = next_random() % 3 == 0;
                    p.soft_cap = next_random() % 3 ? 0 : 3;
                    p.light_share = (float[]){0, 1 / 32.0f, 0.5f, INFINITY}[next_random() % 4];
                    check_problem(kernels, &p);
                }
            }
        }
    }
}
