// SPDX-License-Identifier: Apache-2.0
// What Glibc hides from Swift, each with its reason. One header a topic.
#pragma once

#include "CLinuxProcess.h"
#include "CLinuxFault.h"
#include "CLinuxFile.h"
#include "CLinuxMemory.h"
#include "CLinuxSharedMemory.h"
