// SPDX-License-Identifier: Apache-2.0

package import SystemPackage

extension FilePath {
    /// The directory of a path, in a form that can be opened: `.` for a bare file name.
    ///
    /// Only this type takes paths apart, because NSString's methods crash on Linux for a path of one letter.
    package var directory: FilePath {
        let parent = removingLastComponent()
        return parent.isEmpty ? "." : parent
    }
}
