// SPDX-License-Identifier: Apache-2.0
// The parts of Glibc that Swift does not see, each with the reason. There is one header for each topic.
#pragma once

#include "CLinuxProcess.h"
#include "CLinuxFault.h"
#include "CLinuxFile.h"
#include "CLinuxMemory.h"
#include "CLinuxSharedMemory.h"
