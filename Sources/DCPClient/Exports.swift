// SPDX-License-Identifier: Apache-2.0

// What the library's own methods take and return: `import DCPClient` is enough to use it.
@_exported public import DCPCore
@_exported public import DCPTransport
@_exported public import DCPWire
