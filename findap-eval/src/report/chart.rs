//! Line charts as inline SVG, coloured by the page's style sheet through class names.

use super::html::escape;

/// One line of a chart, or one row of dots.
pub(super) struct Series {
    /// The name of the series, written at its end.
    pub(super) label: String,
    /// The class that gives the colour of the series: `finance`, `general`, `a`, `b`, `faint`.
    pub(super) class: &'static str,
    /// Points: x, y and half the height of the error bar, 0 for none.
    pub(super) points: Vec<(f64, f64, f64)>,
    /// Whether the points have dots.
    pub(super) has_dots: bool,
}

/// The x axis.
pub(super) enum XAxis {
    /// An axis of whole numbers with this name.
    Whole(&'static str),
    /// An axis with named ticks at 0, 1, 2, ...
    Places(Vec<String>),
}

/// A chart.
pub(super) struct Chart {
    /// Heading.
    pub(super) title: String,
    /// What the chart shows, in a sentence, for readers who cannot see it.
    pub(super) description: String,
    /// The x axis.
    pub(super) x: XAxis,
    /// Fixed ends of the y axis; `None` takes them from the data.
    pub(super) y_range: Option<(f64, f64)>,
    /// Whether y values are shares in 0..=1, which are written in percent.
    pub(super) is_percent: bool,
    /// A dashed horizontal line at this y, with a name.
    pub(super) guide: Option<(f64, &'static str)>,
    /// The series, the last on top.
    pub(super) series: Vec<Series>,
}

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 74.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 34.0;
/// Most points of a line; neighbours are averaged where there are more.
const MAX_POINTS: usize = 240;
/// Width of a letter of a tick, in SVG units.
const LETTER_WIDTH: f64 = 7.0;
/// Distance between two labels that keeps them from overlapping, in SVG units.
const LABEL_HEIGHT: f64 = 14.0;

impl Chart {
    /// Draws the chart as a `<figure>`; empty where no series has a point.
    pub(super) fn svg(&self) -> String {
        #[expect(clippy::type_complexity, reason = "each series beside its points, once")]
        let series: Vec<(&Series, Vec<(f64, f64, f64)>)> = self
            .series
            .iter()
            .map(|series| (series, thin(&series.points)))
            .filter(|(_, points)| !points.is_empty())
            .collect();
        let all: Vec<(f64, f64, f64)> = series.iter().flat_map(|(_, points)| points.iter().copied()).collect();
        if all.is_empty() {
            return String::new();
        }
        let (x_low, x_high) = match &self.x {
            XAxis::Places(names) => (-0.25, names.len() as f64 - 0.75),
            XAxis::Whole(_) => span(all.iter().map(|point| point.0)),
        };
        let (y_low, y_high) = self.y_range.unwrap_or_else(|| {
            let (low, high) = span(all.iter().flat_map(|point| [point.1 - point.2, point.1 + point.2]));
            let room = 0.05 * (high - low);
            (low - room, high + room)
        });
        let x_at = |x: f64| LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT);
        let y_at = |y: f64| TOP + (y_high - y.clamp(y_low, y_high)) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM);

        let mut svg = format!(
            "<figure class=\"chart\"><figcaption>{}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n",
            escape(&self.title),
            escape(&self.description)
        );
        for tick in ticks(y_low, y_high, 5) {
            let y = y_at(tick);
            let text = if self.is_percent { format!("{:.0}%", 100.0 * tick) } else { short(tick) };
            svg.push_str(&format!(
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>\n",
                WIDTH - RIGHT,
                LEFT - 6.0,
                y + 4.0
            ));
        }
        self.draw_x_axis(&mut svg, x_low, x_high, &x_at);
        if let Some((at, name)) = self.guide.filter(|(at, _)| (y_low..=y_high).contains(at)) {
            let y = y_at(at);
            svg.push_str(&format!(
                "<line class=\"guide\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>\n",
                WIDTH - RIGHT,
                WIDTH - RIGHT,
                y - 4.0
            ));
        }
        for (series, points) in &series {
            draw_series(&mut svg, series, points, &x_at, &y_at);
        }
        let ends = series.iter().map(|(series, points)| (*series, y_at(points[points.len() - 1].1)));
        for (series, y) in place_labels(ends.filter(|(series, _)| !series.label.is_empty()).collect()) {
            svg.push_str(&format!(
                "<text class=\"label {}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\n",
                series.class,
                WIDTH - RIGHT + 8.0,
                y + 4.0,
                escape(&series.label)
            ));
        }
        svg.push_str("</svg></figure>\n");
        svg
    }

    fn draw_x_axis(&self, svg: &mut String, low: f64, high: f64, x_at: &dyn Fn(f64) -> f64) {
        let mut tick = |x: f64, text: &str| {
            svg.push_str(&format!(
                "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n",
                x_at(x),
                HEIGHT - BOTTOM + 16.0,
                escape(text)
            ));
        };
        match &self.x {
            XAxis::Places(names) => {
                // Where there are too many names for the width, some stand for their neighbours.
                let longest = names.iter().map(|name| name.chars().count()).max().unwrap_or(0) as f64;
                let apart = (x_at(1.0) - x_at(0.0)).max(1.0);
                let every = (LETTER_WIDTH * (longest + 1.0) / apart).ceil().max(1.0) as usize;
                for (place, name) in names.iter().enumerate().step_by(every) {
                    tick(place as f64, name);
                }
            }
            XAxis::Whole(name) => {
                // Fewer than five steps have fewer than five ticks.
                let whole = ticks(low, high, 5).into_iter().filter(|value| (value - value.round()).abs() < 1e-6);
                for value in whole {
                    tick(value, &short(value));
                }
                svg.push_str(&format!(
                    "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\">{name}</text>\n",
                    WIDTH - RIGHT + 20.0,
                    HEIGHT - BOTTOM + 16.0
                ));
            }
        }
    }
}

fn draw_series(
    svg: &mut String,
    series: &Series,
    points: &[(f64, f64, f64)],
    x_at: &dyn Fn(f64) -> f64,
    y_at: &dyn Fn(f64) -> f64,
) {
    let class = series.class;
    for (x, y, error) in points.iter().filter(|point| point.2 > 0.0) {
        svg.push_str(&format!(
            "<line class=\"error {class}\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{1:.1}\" y2=\"{2:.1}\"/>\n",
            x_at(*x),
            y_at(y - error),
            y_at(y + error)
        ));
    }
    let path: Vec<String> = points.iter().map(|(x, y, _)| format!("{:.1},{:.1}", x_at(*x), y_at(*y))).collect();
    svg.push_str(&format!("<polyline class=\"line {class}\" points=\"{}\"/>\n", path.join(" ")));
    if series.has_dots {
        for (x, y, _) in points {
            svg.push_str(&format!(
                "<circle class=\"dot {class}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\"/>\n",
                x_at(*x),
                y_at(*y)
            ));
        }
    }
}

/// Moves labels down until none overlaps the one above.
fn place_labels(mut labels: Vec<(&Series, f64)>) -> Vec<(&Series, f64)> {
    labels.sort_by(|first, second| first.1.total_cmp(&second.1));
    for index in 1..labels.len() {
        labels[index].1 = labels[index].1.max(labels[index - 1].1 + LABEL_HEIGHT);
    }
    labels
}

/// Leaves out points that are not finite, and averages neighbours where there are too many.
fn thin(points: &[(f64, f64, f64)]) -> Vec<(f64, f64, f64)> {
    let finite: Vec<_> = points.iter().copied().filter(|(x, y, error)| (x + y + error).is_finite()).collect();
    let size = finite.len().div_ceil(MAX_POINTS).max(1);
    let mean = |chunk: &[(f64, f64, f64)], part: fn(&(f64, f64, f64)) -> f64| {
        chunk.iter().map(part).sum::<f64>() / chunk.len() as f64
    };
    finite.chunks(size).map(|chunk| (mean(chunk, |p| p.0), mean(chunk, |p| p.1), mean(chunk, |p| p.2))).collect()
}

/// The smallest and the largest of the values, widened where they are equal.
fn span(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if high > low { (low, high) } else { (low - 0.5, high + 0.5) }
}

/// Round numbers between two ends: at most `count + 1` of them, in steps of 1, 2 or 5 times a power of ten.
fn ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let rough = (high - low) / count as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= rough * 0.999);
    let step = step.unwrap_or(10.0 * power);
    let first = (low / step).ceil() as i64;
    (0..=count as i64).map(|index| (first + index) as f64 * step).filter(|tick| *tick <= high + 1e-9 * step).collect()
}

/// Writes a number in few characters.
fn short(value: f64) -> String {
    let text = match value.abs() {
        large if large >= 1e6 => return format!("{}M", short(value / 1e6)),
        large if large >= 1e4 => return format!("{}k", short(value / 1e3)),
        large if large >= 100.0 => format!("{value:.0}"),
        _ => format!("{value:.3}"),
    };
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 1.0, 5), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(ticks(3.0, 47.0, 5), [10.0, 20.0, 30.0, 40.0]);
        assert_eq!(ticks(-0.5, 0.5, 2), [-0.5, 0.0, 0.5]);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0.0, 0.25, 12.0, 1500.0, 20_000.0, 1_500_000.0].map(short),
            ["0", "0.25", "12", "1500", "20k", "1.5M"]
        );
    }

    #[test]
    fn odd_data_still_draws() {
        let chart = |points: Vec<(f64, f64, f64)>| Chart {
            title: "<t>".into(),
            description: "\"d\"".into(),
            x: XAxis::Whole("step"),
            y_range: None,
            is_percent: false,
            guide: None,
            series: vec![Series { label: "<l>".into(), class: "a", points, has_dots: true }],
        };
        assert_eq!(chart(vec![]).svg(), "");
        assert_eq!(chart(vec![(f64::NAN, 1.0, 0.0)]).svg(), "");
        for points in [vec![(1.0, 2.0, 0.0)], vec![(0.0, 1.0, 0.0), (1.0, f64::INFINITY, 0.0), (2.0, 1.0, 0.5)]] {
            let svg = chart(points).svg();
            assert!(
                svg.contains("<svg")
                    && !svg.contains("NaN")
                    && !svg.contains("inf")
                    && !svg.contains("<t>")
                    && !svg.contains("<l>"),
                "{svg}"
            );
        }
        let svg = chart(vec![(1.0, 2.0, 0.0), (2.0, 1.0, 0.0)]).svg();
        assert!(!svg.contains(">1.2<") && svg.contains(">1</text>") && svg.contains(">2</text>"), "half steps: {svg}");
        let many = (0..10_000).map(|step| (f64::from(step), 1.0, 0.0)).collect();
        assert!(chart(many).svg().matches("<circle").count() <= MAX_POINTS);
    }
}
