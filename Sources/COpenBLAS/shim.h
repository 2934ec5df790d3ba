// SPDX-License-Identifier: Apache-2.0
// OpenBLAS, for the sgemm of prefill on machines without vector kernels, and as a benchmark's ceiling. Only DCPAttention imports it.
//
// Declared here instead of including <cblas.h>: Debian switches that header between BLAS implementations through
// /etc/alternatives, and only OpenBLAS has the thread control that the rank daemon depends on.
#ifndef DCP_COPENBLAS_SHIM_H
#define DCP_COPENBLAS_SHIM_H

enum { dcpBlasRowMajor = 101, dcpBlasNoTrans = 111, dcpBlasTrans = 112 };

void cblas_sgemm(int order, int transA, int transB, int m, int n, int k, float alpha, const float *a, int lda,
                 const float *b, int ldb, float beta, float *c, int ldc);
void openblas_set_num_threads(int count);
char *openblas_get_corename(void);
char *openblas_get_config(void);

#endif
