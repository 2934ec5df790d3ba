// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import Glibc

/// DeepSeek's latent attention in its absorbed form (DeepSeek-V2, arXiv 2405.04434, section 2.1): one KV head, whose key is the
/// compressed latent and the rotated dimensions that all heads share, and whose value is the latent.
///
/// The client multiplies queries by W_UK before, and outputs by W_UV after; `v_head_dim` is on its side.
extension HuggingFaceConfig {
    func latentShape() throws(ServiceError) -> Shape {
        func dim(_ key: String) throws(ServiceError) -> Int {
            try fields.required(fields.integer(key, in: 1...1 << 20), key, "latent attention needs it")
        }
        let (latent, rotated) = (try dim("kv_lora_rank"), try dim("qk_rope_head_dim"))
        // Scores are those of the heads before absorption, and so is their scale.
        let headDim = try dim("qk_nope_head_dim") + rotated
        let mscale = try mscale()
        return Shape(
            kvHeads: 1, keyDim: latent + rotated, values: .leading(latent),
            scale: Float(mscale * mscale / Double(headDim).squareRoot()))
    }

    /// What YaRN multiplies queries and keys by, in all of their dimensions. Its other factor, of cosines and sines, is in the
    /// rotated dimensions that the client sends.
    private func mscale() throws(ServiceError) -> Double {
        // `rope_scaling` and `type` before transformers 5, which takes the old key where a file has both.
        let (parameters, scaling) = (try fields.fields("rope_parameters"), try fields.fields("rope_scaling"))
        guard let rope = scaling ?? parameters else { return 1 }
        let (ropeType, type) = (try rope.text("rope_type"), try rope.text("type"))
        guard ropeType ?? type ?? "default" != "default", let allDim = try rope.number("mscale_all_dim"), allDim != 0
        else { return 1 }
        let factor = try rope.required(rope.number("factor"), "factor", "a scaled rotary embedding needs it")
        return factor > 1 ? 0.1 * allDim * log(factor) + 1 : 1
    }
}
