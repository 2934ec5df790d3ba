// SPDX-License-Identifier: Apache-2.0

internal import CAttentionKernels

/// The kernels' exp and tanh, for the tests that measure their errors.
package enum PointwiseFunctions {
    /// e^x for x <= 0.
    package static func exp(_ values: [Float]) -> [Float] {
        [Float](unsafeUninitializedCapacity: values.count) { out, count in
            if let base = out.baseAddress { dcp_exp_values(values, Int64(values.count), base) }
            count = values.count
        }
    }

    package static func tanh(_ values: [Float]) -> [Float] {
        [Float](unsafeUninitializedCapacity: values.count) { out, count in
            if let base = out.baseAddress { dcp_tanh_values(values, Int64(values.count), base) }
            count = values.count
        }
    }
}
