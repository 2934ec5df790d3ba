import ArgumentParser
import DCPDaemon

@main
struct Main {
    static func main() async { await RankCommand.main() }
}
