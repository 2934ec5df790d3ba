// SPDX-License-Identifier: Apache-2.0
// LMDB, the memory-mapped B+tree in which every store of this project lives. Of the sources only DCPStore imports it.
#include <lmdb.h>
