// SPDX-License-Identifier: Apache-2.0
// LMDB, the memory-mapped B+tree every store of this project lives in. Only DCPStore imports it.
#include <lmdb.h>
