// SPDX-License-Identifier: Apache-2.0
// The panel writer of an instruction set, over the operations that panels_words.h lists.
//
// A K panel is the transpose of its rows, word by word for bf16 and f32, and with the pair of each word taken apart for
// f16. Tokens are taken in runs of up to 16, the tokens of a cache line of words. A whole run is transposed in registers,
// one vector of words of 16 rows at a time, and is stored as whole lines. The tokens of an incomplete run are written one
// by one, since the bytes of their neighbours must not be touched. So are the tokens of V whose pair is incomplete. A row
// of V goes into the panel strip by strip.
//
// Rows and panels are many short runs of memory, too short for hardware prefetch. So while a run is written, the rows of
// the next are prefetched.
#ifndef DCP_PANELS_VECTOR_H
#define DCP_PANELS_VECTOR_H

#include "panels_bytes.h"
#include "panels_words.h"

enum { dcp_run_tokens = 16 };

// The arguments of one call.
typedef struct {
    const dcp_panel_shape *shape;
    const char *keys, *values;
    int64_t row_tokens;
    const uint32_t *source;
    int64_t first, end;
    char *payload;
    int streams_keys, streams_values;
} dcp_panel_job;

// Tokens of one panel, all from the same aligned group of dcp_run_tokens.
typedef struct {
    int64_t head;
    int is_value;
    int64_t token, count;
    int64_t row_bytes;
    const char *rows[dcp_run_tokens];
} dcp_run;

DCP_PANEL_INLINE void dcp_run_at(int from, const dcp_panel_job *job, int64_t head, int is_value, int64_t token,
                                 dcp_run *run) {
    const int64_t line_end = token / dcp_run_tokens * dcp_run_tokens + dcp_run_tokens;
    run->head = head, run->is_value = is_value, run->token = token;
    run->count = (line_end < job->end ? line_end : job->end) - token;
    run->row_bytes = (is_value ? job->shape->value_dim : job->shape->key_dim) * dcp_element_bytes(from);
    const char *rows = (is_value ? job->values : job->keys) + head * job->row_tokens * run->row_bytes;
    const uint32_t *source = job->source + (token - job->first);
    for (int64_t t = 0; t < run->count; t++) run->rows[t] = rows + source[t] * run->row_bytes;
}

// Finds the run after `run`: the panel's next tokens, then the head's other panel, if it has one, then the next head. It is
// empty after the last.
DCP_PANEL_INLINE void dcp_run_after(int from, const dcp_panel_job *job, const dcp_run *run, dcp_run *next) {
    const int is_last = run->token + run->count == job->end;
    const int is_last_of_head = is_last && (run->is_value || job->shape->value_dim == 0);
    const int64_t head = run->head + is_last_of_head;
    if (head < job->shape->kv_heads) {
        dcp_run_at(from, job, head, is_last ? !is_last_of_head : run->is_value,
                   is_last ? job->first : run->token + run->count, next);
    } else {
        next->count = 0;
    }
}

// Prefetches the rows of one of `steps` shares of a run.
DCP_PANEL_INLINE void dcp_prefetch_run(const dcp_run *run, int64_t step, int64_t steps) {
    for (int64_t r = run->count * step / steps; r < run->count * (step + 1) / steps; r++) {
        for (int64_t byte = 0; byte < run->row_bytes; byte += 64) __builtin_prefetch(run->rows[r] + byte, 0, 3);
    }
}

// Writes a whole run of keys. `panel` points to the run's first token.
DCP_PANEL_INLINE void dcp_key_run(int from, int to, int streams, const dcp_run *run, int64_t dim, int64_t block_tokens,
                                  char *panel, dcp_words *highest, const dcp_run *next) {
    enum { groups = dcp_run_tokens / dcp_width };
    const int64_t words = dcp_words_of(to, dim), steps = (words + dcp_width - 1) / dcp_width;
    for (int64_t step = 0; step < steps; step++) {
        dcp_prefetch_run(next, step, steps);
        // The last vector overlaps the one before. Lines that are already written are not written again.
        const int64_t here = step < steps - 1 || words < dcp_width ? step * dcp_width : words - dcp_width;
        const int64_t written = step * dcp_width - here;
        dcp_words tile[groups][dcp_width];
        if (words < dcp_width) {
            char scratch[8 * dcp_width];
            for (int t = 0; t < dcp_run_tokens; t++) {
                const char *row = dcp_row_padded(from, run->rows[t], dim, scratch);
                tile[t / dcp_width][t % dcp_width] = dcp_row_load(from, to, row, 0, highest);
            }
        } else {
            DCP_PANEL_UNROLL
            for (int t = 0; t < dcp_run_tokens; t++) {
                tile[t / dcp_width][t % dcp_width] = dcp_row_load(from, to, run->rows[t], here, highest);
            }
        }
        DCP_PANEL_UNROLL
        for (int g = 0; g < groups; g++) words_transpose(tile[g]);
        char *line = panel + 4 * here * block_tokens;
        DCP_PANEL_UNROLL
        for (int w = 0; w < dcp_width; w++, line += 4 * block_tokens) {
            if (w < written) continue;
            if (here + w >= words) break;
            DCP_PANEL_UNROLL
            for (int g = 0; g < groups; g++) {
                if (to == dcp_f16) {
                    words_store_low(line + 2 * dcp_width * g, tile[g][w]);
                    words_store_high(line + 2 * block_tokens + 2 * dcp_width * g, tile[g][w]);
                } else {
                    dcp_put(streams, line + 4 * dcp_width * g, tile[g][w]);
                }
            }
        }
    }
}

// Writes one token's key. `panel` points to the head's first token.
DCP_PANEL_INLINE void dcp_key_token(int from, int to, const char *row, int64_t dim, int64_t block_tokens, char *panel,
                                    int64_t token, dcp_words *highest) {
    uint32_t words[dcp_row_words_max];
    dcp_row_convert(from, to, 0, row, dim, (char *)words, highest);
    const int64_t count = dcp_words_of(to, dim);
    if (to == dcp_f16) {
        uint16_t *at = (uint16_t *)panel + token;
        for (int64_t w = 0; w < count; w++, at += 2 * block_tokens) {
            at[0] = (uint16_t)words[w];
            at[block_tokens] = (uint16_t)(words[w] >> 16);
        }
    } else {
        uint32_t *at = (uint32_t *)panel + token;
        for (int64_t w = 0; w < count; w++, at += block_tokens) *at = words[w];
    }
}

// Writes both tokens of a bf16 pair, of at least dcp_width dimensions.
DCP_PANEL_INLINE void dcp_value_pair(int from, int streams, const char *first, const char *second, int64_t dim,
                                     char *out, dcp_words *highest) {
    for (int64_t d = 0; d < dim; d += dcp_width) {
        const int64_t here = d + dcp_width <= dim ? d : dim - dcp_width;
        dcp_words a = dcp_as_f32(from, first + here * dcp_element_bytes(from));
        dcp_words b = dcp_as_f32(from, second + here * dcp_element_bytes(from));
        if (from != dcp_bf16) {
            a = words_round_bf16(a);
            b = words_round_bf16(b);
        }
        dcp_put(streams, out + 4 * here, dcp_checked(dcp_bf16, words_pair_high(a, b), highest));
    }
}

// Writes one token of a bf16 pair, whose other token may be in use.
DCP_PANEL_INLINE void dcp_value_half(int from, const char *row, int64_t dim, char *strip, int64_t token,
                                     dcp_words *highest) {
    uint32_t words[dcp_strip_dims / 2];
    dcp_row_convert(from, dcp_bf16, 0, row, dim, (char *)words, highest);
    uint16_t *at = (uint16_t *)strip + token / 2 * 2 * dim + token % 2;
    for (int64_t w = 0; w < dim / 2; w++, at += 4) {
        at[0] = (uint16_t)words[w];
        at[2] = (uint16_t)(words[w] >> 16);
    }
}

DCP_PANEL_INLINE void dcp_write_keys(int from, int to, const dcp_panel_job *job, const dcp_run *run, char *panel,
                                     dcp_words *highest, const dcp_run *next) {
    const int64_t dim = job->shape->key_dim, block_tokens = job->shape->block_tokens;
    if (run->count == dcp_run_tokens) {
        char *line = panel + run->token * (to == dcp_f16 ? 2 : 4);
        dcp_key_run(from, to, job->streams_keys, run, dim, block_tokens, line, highest, next);
        return;
    }
    for (int64_t t = 0; t < run->count; t++) {
        dcp_prefetch_run(next, t, run->count);
        dcp_key_token(from, to, run->rows[t], dim, block_tokens, panel, run->token + t, highest);
    }
}

// Writes a strip of a token's values, and of the next token's if they are a whole pair. `row` and `next_row` point to the
// strip's first dimension.
DCP_PANEL_INLINE void dcp_value_strip(int from, int to, int streams, const char *row, const char *next_row, int64_t dim,
                                      char *strip, int64_t token, dcp_words *highest) {
    char *out = strip + token * dim * dcp_element_bytes(to);
    if (to != dcp_bf16) {
        dcp_row_convert(from, to, streams, row, dim, out, highest);
    } else if (next_row != NULL && dim >= dcp_width) {
        dcp_value_pair(from, streams, row, next_row, dim, out, highest);
    } else {
        dcp_value_half(from, row, dim, strip, token, highest);
        if (next_row != NULL) dcp_value_half(from, next_row, dim, strip, token + 1, highest);
    }
}

DCP_PANEL_INLINE void dcp_write_values(int from, int to, const dcp_panel_job *job, const dcp_run *run, char *panel,
                                       dcp_words *highest, const dcp_run *next) {
    const int64_t dim = job->shape->value_dim, strip_tokens = job->shape->block_tokens * dcp_element_bytes(to);
    for (int64_t t = 0; t < run->count;) {
        const int64_t token = run->token + t;
        const int64_t taken = to == dcp_bf16 && token % 2 == 0 && t + 1 < run->count ? 2 : 1;
        for (int64_t strip = 0; strip < dim; strip += dcp_strip_dims) {
            const int64_t skipped = strip * dcp_element_bytes(from);
            dcp_value_strip(from, to, job->streams_values, run->rows[t] + skipped,
                            taken == 2 ? run->rows[t + 1] + skipped : NULL, dcp_strip_width(strip, dim),
                            panel + strip * strip_tokens, token, highest);
        }
        for (const int64_t end = t + taken; t < end; t++) dcp_prefetch_run(next, t, run->count);
    }
}

DCP_PANEL_INLINE int dcp_write_panels(int from, int to, const dcp_panel_shape *shape, const char *keys,
                                      const char *values, int64_t row_tokens, const uint32_t *source, int64_t count,
                                      char *payload, int64_t first, int streams) {
    const int64_t key_bytes = shape->block_tokens * shape->key_dim * dcp_element_bytes(to);
    const int64_t head_bytes = key_bytes + shape->block_tokens * shape->value_dim * dcp_element_bytes(to);
    // Only whole lines bypass the caches, each written once: otherwise it costs more than it saves.
    const int is_aligned = streams && (uintptr_t)payload % 64 == 0;
    const dcp_panel_job job = {
        .shape = shape, .keys = keys, .values = values, .row_tokens = row_tokens, .source = source, .first = first,
        .end = first + count, .payload = payload,
        .streams_keys = is_aligned,
        .streams_values = is_aligned && shape->value_dim * (to == dcp_f16 ? 2 : 4) % 64 == 0,
    };
    dcp_words highest = words_zero();
    dcp_run runs[2];
    dcp_run_at(from, &job, 0, 0, first, &runs[0]);
    for (int turn = 0; runs[turn].count > 0; turn = !turn) {
        const dcp_run *run = &runs[turn];
        dcp_run *next = &runs[!turn];
        dcp_run_after(from, &job, run, next);
        char *head = payload + run->head * head_bytes;
        if (run->is_value) {
            dcp_write_values(from, to, &job, run, head + key_bytes, &highest, next);
        } else {
            dcp_write_keys(from, to, &job, run, head, &highest, next);
        }
    }
    if (is_aligned) words_fence();
    return dcp_all_finite(to, highest) ? 0 : -1;
}

DCP_PANEL_INLINE int dcp_convert_rows(int from, const char *rows, int64_t count, float *out) {
    dcp_words highest = words_zero();
    dcp_row_convert(from, dcp_f32, 0, rows, count, (char *)out, &highest);
    return dcp_all_finite(dcp_f32, highest) ? 0 : -1;
}

// The functions of an instruction set: a writer for each dtype of rows and each format, and the dispatch among them.
#define DCP_PANEL_WRITER(to, number, bytes, interleaved, set, from)                                                    \
    static int write_##from##_##to##_##set(const dcp_panel_shape *shape, const void *keys, const void *values,         \
                                           int64_t row_tokens, const uint32_t *source, int64_t count, void *payload,   \
                                           int64_t first, int streams) {                                               \
        if (dcp_has_scales(dcp_##to)) {                                                                                \
            return dcp_write_bytes(dcp_rows_to_f32_##set, dcp_##from, dcp_##to, shape, keys, values, row_tokens,       \
                                   source, count, payload, first);                                                     \
        }                                                                                                              \
        return dcp_write_panels(dcp_##from, dcp_##to, shape, keys, values, row_tokens, source, count, payload, first,  \
                                streams);                                                                              \
    }
#define DCP_PANEL_WRITERS(from, set) DCP_CACHE_FORMATS(DCP_PANEL_WRITER, set, from)

#define DCP_PANEL_WRITER_NAME(to, number, bytes, interleaved, set, from) [number] = write_##from##_##to##_##set,
#define DCP_PANEL_WRITER_NAMES(from, set) [dcp_##from] = {DCP_CACHE_FORMATS(DCP_PANEL_WRITER_NAME, set, from)},

#define DCP_CONVERT_CASE(from, ...)                                                                                    \
    case dcp_##from: return dcp_convert_rows(dcp_##from, rows, count, out);

#define DCP_PANEL_KERNELS(set)                                                                                         \
    DCP_ROW_TYPES(DCP_PANEL_WRITERS, set)                                                                              \
    int dcp_panel_write_##set(const dcp_panel_shape *shape, int32_t row_type, const void *keys, const void *values,    \
                              int64_t row_tokens, const uint32_t *source, int64_t count, void *payload, int64_t first, \
                              int streams) {                                                                           \
        typedef int writer(const dcp_panel_shape *, const void *, const void *, int64_t, const uint32_t *, int64_t,    \
                           void *, int64_t, int);                                                                      \
        static writer *const writers[dcp_row_types_end][dcp_formats_end] = {                                           \
            DCP_ROW_TYPES(DCP_PANEL_WRITER_NAMES, set)                                                                 \
        };                                                                                                             \
        return writers[dcp_checked_row_type(row_type)][dcp_checked_format(shape->format)](                             \
            shape, keys, values, row_tokens, source, count, payload, first, streams);                                  \
    }                                                                                                                  \
    int dcp_rows_to_f32_##set(int32_t row_type, const void *rows, int64_t count, float *out) {                         \
        switch (row_type) {                                                                                            \
            DCP_ROW_TYPES(DCP_CONVERT_CASE, )                                                                          \
        default: __builtin_trap();                                                                                     \
        }                                                                                                              \
    }

#endif
