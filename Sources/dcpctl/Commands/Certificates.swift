// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPCertificates
import DCPConsole
import DCPCore

struct Certificates: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "certs", abstract: "Make, renew and show the certificates of a cluster.",
        discussion: """
            A cluster has its own certificate authority. A certificate states its holder's role: coordinator, a \
            particular rank, or client; host names and addresses do not matter. Keep ca-key.pem on a host without \
            daemons: it allows impersonating any member of the cluster.

            EXAMPLE
              dcpctl certs init --directory ./certificates --ranks 4 --client alice
              dcpctl certs show ./certificates
              dcpctl certs renew --directory ./certificates
            """,
        subcommands: [Init.self, Add.self, Renew.self, Show.self])

    struct Init: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Create an authority, and certificates for the coordinator, the ranks and clients.",
            discussion: """
                The directory must not exist; it appears when it is complete. It contains ca.pem, coordinator.pem, \
                rank-0.pem and so on, client-NAME.pem, and a key for each, such as rank-0-key.pem, which only its \
                owner may read. A host needs ca.pem, and the certificates and keys of the daemons and clients on it. \
                The authority is valid for ten years.

                EXAMPLE
                  dcpctl certs init --directory ./certificates --ranks 4 --client alice --client bob
                """)

        @Option(help: ArgumentHelp("The directory to create.", valueName: "directory"))
        var directory: String

        @Option(parsing: .unconditional, help: "The number of ranks in the cluster.")
        var ranks: Int

        @Option(help: ArgumentHelp("The name of a client; may be repeated.", valueName: "name"))
        var client: [String] = []

        @OptionGroup var rights: RightsOption
        @OptionGroup var validity: ValidityOptions
        @OptionGroup var output: OutputOptions

        func validate() throws {
            guard (1...ClusterShape.ranksMax).contains(ranks) else {
                throw ValidationError(
                    "A cluster cannot have \(ranks) ranks; give 1 to \(ClusterShape.ranksMax) with --ranks.")
            }
        }

        func run() async throws {
            try await execute {
                let files = try CertificateDirectory(path: directory).create(
                    ranks: ranks, clients: client, right: rights.rights, days: validity.days)
                try CertificateView.print(files, output)
            }
        }
    }

    struct Add: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Create certificates for more clients and ranks, signed by the same authority.",
            discussion: """
                EXAMPLE
                  dcpctl certs add --directory ./certificates --client carol
                  dcpctl certs add --directory ./certificates --client dashboard --rights read
                """)

        @Option(help: ArgumentHelp("The directory that `dcpctl certs init` made.", valueName: "directory"))
        var directory: String

        @Option(help: ArgumentHelp("The name of a client; may be repeated.", valueName: "name"))
        var client: [String] = []

        @Option(help: ArgumentHelp("The number of a rank; may be repeated.", valueName: "rank"))
        var rank: [Int] = []

        @OptionGroup var rights: RightsOption
        @OptionGroup var validity: ValidityOptions
        @OptionGroup var output: OutputOptions

        func validate() throws {
            guard !client.isEmpty || !rank.isEmpty else {
                throw ValidationError("Nothing to do; give a client with --client or a rank with --rank.")
            }
            for number in rank where !(0..<ClusterShape.ranksMax).contains(number) {
                throw ValidationError("There is no rank \(number); give 0 to \(ClusterShape.ranksMax - 1) with --rank.")
            }
            guard Set(rank).count == rank.count else { throw ValidationError("A rank is named twice; name each once.") }
        }

        func run() async throws {
            try await execute {
                let files = try CertificateDirectory(path: directory).add(
                    ranks: rank.map { RankIndex(UInt16($0)) }, clients: client, right: rights.rights,
                    days: validity.days)
                try CertificateView.print(files, output)
            }
        }
    }

    struct Renew: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Renew the certificates of a directory, with the same authority and the same keys.",
            discussion: """
                Replace the old certificates by the new ones, and `systemctl reload` the daemons. The command does not \
                renew the authority: before that expires, create another directory and replace all certificates of the \
                cluster.

                EXAMPLE
                  dcpctl certs renew --directory ./certificates --days 90
                """)

        @Option(help: ArgumentHelp("The directory that `dcpctl certs init` made.", valueName: "directory"))
        var directory: String

        @OptionGroup var validity: ValidityOptions
        @OptionGroup var output: OutputOptions

        func run() async throws {
            try await execute {
                let files = try CertificateDirectory(path: directory).renew(days: validity.days)
                try CertificateView.print(files, output)
            }
        }
    }

    struct Show: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show the role, serial number, expiry and issuer of certificates.",
            discussion: """
                EXAMPLE
                  dcpctl certs show ./certificates
                  dcpctl certs show /etc/dcp/rank-0.pem --json | jq '.[0].not_after'
                """)

        @Argument(help: "A directory of certificates, or one of its files.")
        var path: String

        @OptionGroup var output: OutputOptions

        func run() async throws {
            try await execute { try CertificateView.print(try CertificateFile.all(at: path), output) }
        }
    }
}

struct RightsOption: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "The clients' right: read (status, lists, exports), use (steps, and their own sequences) or administer "
                + "(everything, the default). Each right includes those before it.", valueName: "right"),
        transform: { text in
            guard let right = ClientRight(rawValue: text) else {
                throw ValidationError("`\(text)` is not a right; use read, use or administer.")
            }
            return right
        })
    var rights = ClientRight.administer
}

struct ValidityOptions: ParsableArguments {
    @Option(
        parsing: .unconditional,
        help: "Validity of the certificates in days: 1 to \(CertificateValidity.authorityDays).")
    var days = CertificateValidity.leafDays

    func validate() throws {
        guard (1...CertificateValidity.authorityDays).contains(days) else {
            throw ValidationError(
                "\(days) days are outside 1...\(CertificateValidity.authorityDays); correct --days.")
        }
    }
}
