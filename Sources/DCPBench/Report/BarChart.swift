// SPDX-License-Identifier: Apache-2.0

internal import Foundation

/// Bars of figures beside their ceilings, as SVG: one section for each unit, with its own scale.
struct BarChart {
    struct Bar {
        var label: String
        var value: Double
        /// Drawn at the bar's end.
        var text: String
        var isCeiling: Bool
    }

    struct Section {
        var unit: String
        /// Bars that belong together: a figure, then its ceilings.
        var groups: [(title: String, bars: [Bar])]
    }

    var title: String
    var subtitle: String
    var sections: [Section]

    init(_ report: Report) {
        title = "dcp-bench \(report.benchmark)"
        subtitle =
            "\(report.machine.cpu), \(report.machine.cores) cores, \(report.kernels.instructionSet), "
            + "OpenBLAS \(report.kernels.openblasCore), seed \(report.seed). Medians."
        var sections: [Section] = []
        for result in report.results {
            for figure in result.figures {
                let parts = figure.beside.filter { $0.kind == .whole }.map {
                    ", \(Report.ratio($0.ratio)) of the \($0.name)"
                }
                var bars = [
                    Bar(
                        label: figure.name, value: figure.value.median,
                        text: "\(Report.number(figure.value.median)) \(figure.value.unit)" + parts.joined(),
                        isCeiling: false)
                ]
                for ceiling in figure.beside where ceiling.kind == .ceiling {
                    let ratio = Report.ratio(ceiling.ratio)
                    bars.append(
                        Bar(
                            label: ceiling.name, value: ceiling.value.median,
                            text: "\(Report.number(ceiling.value.median)), "
                                + (figure.isDuration ? "\(ratio) of the figure" : "figure is \(ratio) of it"),
                            isCeiling: true))
                }
                let group = (title: result.parameters.label, bars: bars)
                if let index = sections.firstIndex(where: { $0.unit == figure.value.unit }) {
                    if sections[index].groups.last?.title == group.title {
                        sections[index].groups[sections[index].groups.count - 1].bars += bars
                    } else {
                        sections[index].groups.append(group)
                    }
                } else {
                    sections.append(Section(unit: figure.value.unit, groups: [group]))
                }
            }
        }
        self.sections = sections
    }

    private enum Size {
        static let width = 960.0
        static let labels = 190.0
        /// Room at the right for the text at a bar's end.
        static let texts = 240.0
        static let bar = 16.0
        static let step = 20.0
        static let margin = 24.0
    }

    /// The whole file.
    var svg: String {
        var body = ""
        var y = Size.margin + 14
        body += text(title, x: Size.margin, y: y, size: 18, weight: "bold")
        y += 20
        body += text(subtitle, x: Size.margin, y: y, size: 11, color: "#555555")
        for section in sections {
            y += 34
            body += text(section.unit, x: Size.margin, y: y, size: 14, weight: "bold")
            let greatest = section.groups.flatMap(\.bars).map(\.value).filter(\.isFinite).max() ?? 0
            for group in section.groups {
                y += 26
                body += text(group.title, x: Size.margin, y: y, size: 12, weight: "bold", color: "#333333")
                y += 8
                for bar in group.bars {
                    body += drawn(bar, y: y, greatest: greatest)
                    y += Size.step
                }
            }
        }
        let height = Int((y + Size.margin).rounded(.up))
        return """
            <?xml version="1.0" encoding="UTF-8"?>
            <svg xmlns="http://www.w3.org/2000/svg" width="\(Int(Size.width))" height="\(height)" \
            viewBox="0 0 \(Int(Size.width)) \(height)" font-family="Helvetica, Arial, sans-serif" role="img">
            <title>\(Self.escaped(title))</title>
            <rect width="100%" height="100%" fill="#ffffff"/>
            \(body)</svg>

            """
    }

    private func drawn(_ bar: Bar, y: Double, greatest: Double) -> String {
        let room = Size.width - 2 * Size.margin - Size.labels - Size.texts
        let length = greatest > 0 && bar.value.isFinite ? max(bar.value / greatest * room, 1) : 1
        let x = Size.margin + Size.labels
        let fill = bar.isCeiling ? "#c7ccd3" : "#2a6fb0"
        return text(bar.label, x: x - 8, y: y + 12, size: 12, anchor: "end", color: "#333333")
            + "<rect x=\"\(coordinate(x))\" y=\"\(coordinate(y))\" width=\"\(coordinate(length))\" "
            + "height=\"\(coordinate(Size.bar))\" fill=\"\(fill)\"/>\n"
            + text(bar.text, x: x + length + 6, y: y + 12, size: 12)
    }

    private func text(
        _ text: String, x: Double, y: Double, size: Int, weight: String = "normal", anchor: String = "start",
        color: String = "#111111"
    ) -> String {
        "<text x=\"\(coordinate(x))\" y=\"\(coordinate(y))\" font-size=\"\(size)\" font-weight=\"\(weight)\" "
            + "text-anchor=\"\(anchor)\" fill=\"\(color)\">\(Self.escaped(text))</text>\n"
    }

    private func coordinate(_ value: Double) -> String { String(format: "%.1f", value) }

    /// Text for an element or an attribute. Characters that XML 1.0 has no place for are left out.
    static func escaped(_ text: String) -> String {
        var escaped = ""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "&": escaped += "&amp;"
            case "<": escaped += "&lt;"
            case ">": escaped += "&gt;"
            case "\"": escaped += "&quot;"
            case "\t", "\n": escaped += " "
            case _ where scalar.value < 32 || scalar.value == 0xFFFE || scalar.value == 0xFFFF: break
            default: escaped.unicodeScalars.append(scalar)
            }
        }
        return escaped
    }
}

extension Report {
    /// A picture of the figures beside their ceilings: an SVG document.
    public var svg: String { BarChart(self).svg }
}
