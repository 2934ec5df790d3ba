package import SystemPackage

extension FilePath {
    /// Where a file of this path is, as it can be opened: `.` for a name alone.
    ///
    /// Paths are taken apart by this type alone: NSString's methods end the process on Linux at a path of one letter.
    package var directory: FilePath {
        let parent = removingLastComponent()
        return parent.isEmpty ? "." : parent
    }
}
