// SPDX-License-Identifier: Apache-2.0

// What tests compare with comes with their kit.
@_exported public import DCPOracle
