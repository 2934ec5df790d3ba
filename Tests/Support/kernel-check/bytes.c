// SPDX-License-Identifier: Apache-2.0
// Formats with scales: how far a number is from what it becomes, what is read back, and that this becomes the same bytes
// again.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../../../Sources/CAttentionKernels/panels_bytes.h"
#include "check.h"

enum { tokens = 48 };

// Numbers of a size that differs from row to row. Some rows have a dimension that stands out, and some are 0.
static void fill_rows(float *rows, int64_t count, int64_t dim) {
    for (int64_t r = 0; r < count; r++) {
        const float size = ldexpf(1, (int)(next_random() % 60) - 30);
        for (int64_t d = 0; d < dim; d++) rows[r * dim + d] = next_float() * size;
        if (next_random() % 3 == 0) rows[r * dim + (int64_t)(next_random() % (uint64_t)dim)] *= 100;
        if (next_random() % 16 == 0) memset(rows + r * dim, 0, (size_t)dim * 4);
    }
}

static void widen(int row_type, const void *rows, int64_t count, float *out) {
    dcp_rows_to_f32(dcp_kernels(0), row_type, rows, count, out);
}

// The largest error that is allowed, about half a step. For fp8 it is relative to the number, since e4m3 is exact to 2^-4.
// For int8 it is half of 1/127 of the row's largest number, `most`, or `norm` if the row was rotated.
static double allowed(int format, double most, double number, double norm) {
    if (format == dcp_fp8) return fmax(fabs(number) * 0x1p-4, most * 0x1p-17) + 0x1p-69;
    return norm > 0 ? norm : most / 127 * 0.51;
}

static void check_rows(int format, int is_key, const float *rows, const float *back, int64_t count, int64_t dim) {
    for (int64_t r = 0; r < count; r++, rows += dim, back += dim) {
        double most = 0, worst = 0, off = 0, size = 0;
        for (int64_t d = 0; d < dim; d++) {
            most = fmax(most, fabs(rows[d]));
            size += (double)rows[d] * rows[d];
        }
        // A rotated row is off by at most half a step in each of its dimensions, and the largest of these is at most the
        // row's norm.
        const double norm = format == dcp_int8 && is_key ? sqrt(size) / 127 * 0.51 * sqrt((double)dim) : 0;
        for (int64_t d = 0; d < dim; d++) {
            const double error = fabs((double)rows[d] - back[d]);
            worst = fmax(worst, error - allowed(format, most, rows[d], norm));
            off += error * error;
        }
        check(worst <= 0x1p-60 && sqrt(off) <= fmax(norm, INFINITY * (norm == 0)), "%s: off by %g more than half a step, dim %d", dcp_format(format).name, worst, (int)dim);
    }
}

static void check_kept(const dcp_kernel_table *kernels, int format, int key_dim, int value_dim) {
    const dcp_panel_shape shape = {format, 2, key_dim, value_dim, tokens};
    const size_t bytes = (size_t)(2 * dcp_head_bytes(&shape)), size = (size_t)dcp_element_bytes(dcp_row_type_of(format));
    const int64_t numbers = 2 * tokens * (int64_t)(key_dim > value_dim ? key_dim : value_dim);
    float *rows = malloc((size_t)numbers * 8), *values = rows + numbers;
    fill_rows(rows, 2 * tokens, key_dim);
    if (value_dim > 0) fill_rows(values, 2 * tokens, value_dim);
    uint32_t source[tokens];
    for (uint32_t t = 0; t < tokens; t++) source[t] = t;
    guarded payload = guarded_make(bytes), again = guarded_make(bytes), copy = guarded_make(bytes);
    check(dcp_panel_write(kernels, &shape, dcp_f32, rows, values, tokens, source, tokens, payload.base, 0, 0) == 0, "finite");

    guarded keys = guarded_make((uint64_t)(2 * tokens * key_dim) * size), twin = guarded_make(keys.byte_count);
    guarded kept = guarded_make((uint64_t)(2 * tokens * value_dim) * size + 1);
    dcp_panel_read(kernels, &shape, payload.base, 0, tokens, keys.base, kept.base);
    dcp_panel_read(dcp_kernels(0), &shape, payload.base, 0, tokens, twin.base, kept.base);
    check(memcmp(keys.base, twin.base, keys.byte_count) == 0, "%s: keys read back", dcp_format(format).name);

    // Each token of [tokens][heads][dim] is a tensor of one token, [heads][1][dim].
    float *back = malloc((size_t)numbers * 4), *row = malloc((size_t)numbers * 4);
    memset(again.base, 0, bytes);
    memset(copy.base, 0, bytes);
    void *packed = malloc((size_t)dcp_packed_bytes(&shape));
    for (int64_t t = 0; t < tokens; t++) {
        const uint32_t first = 0;
        dcp_panel_write(kernels, &shape, dcp_row_type_of(format), (char *)keys.base + t * 2 * key_dim * (int64_t)size,
                        (char *)kept.base + t * 2 * value_dim * (int64_t)size, 1, &first, 1, again.base, t, 0);
        dcp_packed_read(&shape, payload.base, t, packed);
        dcp_packed_write(&shape, packed, copy.base, t);
    }
    check(memcmp(payload.base, again.base, bytes) == 0, "%s, dims %d and %d: what was read and is written again",
          dcp_format(format).name, key_dim, value_dim);
    check(memcmp(payload.base, copy.base, bytes) == 0, "%s: packed", dcp_format(format).name);
    for (int is_value = 0; is_value <= (value_dim > 0); is_value++) {
        const int64_t dim = is_value ? value_dim : key_dim;
        widen(dcp_row_type_of(format), is_value ? kept.base : keys.base, 2 * tokens * dim, row);
        for (int64_t head = 0; head < 2; head++)
            for (int64_t t = 0; t < tokens; t++)
                memcpy(back + (head * tokens + t) * dim, row + (t * 2 + head) * dim, (size_t)dim * 4);
        check_rows(format, !is_value, is_value ? values : rows, back, 2 * tokens, dim);
    }
    free(rows), free(back), free(row), free(packed);
    guarded_free(payload), guarded_free(again), guarded_free(copy), guarded_free(keys), guarded_free(twin);
    guarded_free(kept);
}

// A number that stands out is kept apart, in nearly all rows in which it does. Numbers are then off about as much as without
// it, and each row becomes itself again.
static void check_apart(int64_t dim) {
    enum { count = 300 };
    int with_words = 0;
    double off[2] = {0, 0};
    for (int i = 0; i < count; i++) {
        float rows[2][dcp_rotated_max], back[2][dcp_rotated_max], again[dcp_rotated_max];
        for (int64_t d = 0; d < dim; d++) rows[0][d] = rows[1][d] = next_float();
        rows[1][next_random() % (uint64_t)dim] = (next_random() % 2 ? 100 : -100) + next_float();
        memcpy(back, rows, sizeof back);
        for (int kind = 0; kind < 2; kind++) {
            check(dcp_round_row(dcp_int8, 1, back[kind], dim) == 0, "finite");
            memcpy(again, back[kind], sizeof again);
            check(dcp_round_row(dcp_int8, 1, again, dim) == 0 && memcmp(back[kind], again, (size_t)dim * 4) == 0,
                  "a key of %d dims that was read back becomes another", (int)dim);
        }
        uint8_t bytes[dcp_rotated_max];
        uint32_t word;
        memcpy(again, rows[1], sizeof again);
        dcp_key_to_int8(again, dim, bytes, &word);
        if (word == 0) continue;
        with_words++;
        for (int kind = 0; kind < 2; kind++)
            for (int64_t d = 0; d < dim; d++) off[kind] += pow((double)back[kind][d] - rows[kind][d], 2);
    }
    check(with_words >= count - 5, "%d of %d keys of %d dims have words", with_words, (int)count, (int)dim);
    check(off[1] <= off[0] * 4, "keys of %d dims: off by %g, and %g without what stands out", (int)dim,
          sqrt(off[1] / with_words / (double)dim), sqrt(off[0] / with_words / (double)dim));
}

// A rotation keeps dot products, and its inverse undoes it.
static void check_rotation(int64_t dim) {
    float a[dcp_rotated_max], b[dcp_rotated_max], rotated[2][dcp_rotated_max];
    fill_rows(a, 1, dim);
    for (int64_t d = 0; d < dim; d++) b[d] = next_float();
    memcpy(rotated[0], a, sizeof a);
    memcpy(rotated[1], b, sizeof b);
    dcp_rotate(rotated[0], dim);
    dcp_rotate(rotated[1], dim);
    double before = 0, after = 0, norms[2] = {0, 0};
    for (int64_t d = 0; d < dim; d++) {
        before += (double)a[d] * b[d], after += (double)rotated[0][d] * rotated[1][d];
        norms[0] += (double)a[d] * a[d], norms[1] += (double)b[d] * b[d];
    }
    check(fabs(before - after) <= 1e-6 * sqrt(norms[0] * norms[1]), "rotated, %d dims: %g, then %g", (int)dim, before, after);
    dcp_rotate_back(rotated[0], dim);
    double off = 0;
    for (int64_t d = 0; d < dim; d++) off = fmax(off, fabs((double)rotated[0][d] - a[d]));
    check(off <= 1e-6 * sqrt(norms[0]), "rotated and back, %d dims: off by %g", (int)dim, off);
}

// Every e4m3 times a power of two is kept exactly.
static void check_e4m3(void) {
    for (int exponent = -40; exponent <= 100; exponent += 7) {
        float row[128];
        for (int code = 0; code < 127; code++) row[code] = ldexpf(dcp_e4m3((uint8_t)code), exponent) * (code % 2 ? -1 : 1);
        row[127] = 0;
        float kept[128];
        memcpy(kept, row, sizeof row);
        check(dcp_round_row(dcp_fp8, 0, kept, 128) == 0 && memcmp(kept, row, sizeof row) == 0, "e4m3 times 2^%d", exponent);
    }
}

void check_bytes(const dcp_kernel_table *kernels) {
    static const int dims[][2] = {{8, 8}, {12, 20}, {64, 64}, {80, 76}, {128, 128}, {192, 0}, {256, 252}, {576, 512}};
    check_e4m3();
    for (int64_t dim = 8; dim <= dcp_rotated_max; dim += 4) check_rotation(dim), check_apart(dim);
    for (int format = dcp_row_types_end; format < dcp_formats_end; format++)
        for (unsigned d = 0; d < sizeof dims / sizeof dims[0]; d++) check_kept(kernels, format, dims[d][0], dims[d][1]);
}
