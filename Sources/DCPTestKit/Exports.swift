// What tests compare with comes with their kit.
@_exported public import DCPOracle
