// SPDX-License-Identifier: Apache-2.0

public import DCPCore

/// Of models whose layers are all of one kind.
extension ModelDescription {
    public var attention: LayerAttention { self[0] }
    public var queryHeads: Int { attention.queryHeads }
    public var kvHeads: Int { attention.kvHeads }
    public var keyDim: Int { attention.keyDim }
    public var valueDim: Int { attention.valueDim }
}
