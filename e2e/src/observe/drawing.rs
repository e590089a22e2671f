//! Charts as inline SVG over one axis of seconds. Text from elsewhere is escaped here, and nowhere else.

use std::fmt::{self, Display, Write as _};

use crate::prometheus::{Point, Span};

/// The units of every drawing's own coordinates: names left, then time.
const WIDTH: f64 = 1000.0;
const NAMES: f64 = 190.0;
const RIGHT: f64 = 20.0;
const AXIS: f64 = 26.0;
/// About as wide as a letter is.
const LETTER: f64 = 7.0;

/// Text that HTML takes as text, whatever it holds.
pub struct Escaped<'a>(pub &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '&' => out.write_str("&amp;")?,
                '<' => out.write_str("&lt;")?,
                '>' => out.write_str("&gt;")?,
                '"' => out.write_str("&quot;")?,
                '\'' => out.write_str("&#39;")?,
                other => out.write_char(other)?,
            }
        }
        Ok(())
    }
}

/// Seconds as a reader wants them: 12 ms, 4.14 s, 51.3 s, 2 min 5 s.
pub fn seconds(span: f64) -> String {
    match span {
        span if span.is_infinite() => "unknown".to_owned(),
        span if span.abs() < 0.000_5 => "0 s".to_owned(),
        span if span.abs() < 0.1 => format!("{:.0} ms", span * 1000.0),
        span if span.abs() < 10.0 => format!("{} s", short(&format!("{span:.2}"))),
        span if span.abs() < 120.0 => format!("{} s", short(&format!("{span:.1}"))),
        span => format!("{:.0} min {:.0} s", (span / 60.0).floor(), span % 60.0),
    }
}

/// Without the noughts of a round number; others keep theirs, so that they stand in line.
fn short(number: &str) -> &str {
    match number.split_once('.') {
        Some((whole, rest)) if rest.chars().all(|digit| digit == '0') => whole,
        _ => number,
    }
}

/// One axis of time for all drawings of a page, in seconds after its zero.
#[derive(Clone, Copy)]
pub struct Axis {
    pub span: Span,
    pub zero: f64,
}

impl Axis {
    pub fn x(self, at: f64) -> f64 {
        let share = (at - self.span.from) / (self.span.to - self.span.from);
        NAMES + share.clamp(0.0, 1.0) * (WIDTH - NAMES - RIGHT)
    }

    /// Round numbers of seconds, about a dozen of them.
    fn ticks(self) -> Vec<f64> {
        let length = self.span.to - self.span.from;
        let steps = [0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0];
        let step = steps.into_iter().find(|step| length / step <= 13.0).unwrap_or(600.0);
        let first = ((self.span.from - self.zero) / step).ceil();
        let count = ((self.span.to - self.zero) / step).floor() - first;
        (0..=count.max(0.0) as u32).map(|number| (first + f64::from(number)) * step).collect()
    }
}

/// A moment that matters in every drawing, and what it is called.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guide {
    pub at: f64,
    pub name: &'static str,
}

/// A drawing that grows downwards, row by row.
pub struct Drawing {
    axis: Axis,
    name: String,
    described: String,
    guides: Vec<Guide>,
    body: String,
    height: f64,
}

/// How a bar looks, by a class of the page's style.
pub struct Bar<'a> {
    pub span: Span,
    pub class: &'a str,
    pub label: &'a str,
    /// Whether the label may stand beside the bar where it does not fit in; otherwise only the hint tells it.
    pub beside: bool,
    /// For who points at it.
    pub hint: &'a str,
}

impl Drawing {
    /// With vertical lines at the moments that matter everywhere.
    pub fn new(axis: Axis, name: &str, described: &str, guides: &[Guide]) -> Drawing {
        Drawing {
            axis,
            name: name.to_owned(),
            described: described.to_owned(),
            guides: guides.to_vec(),
            body: String::new(),
            height: 4.0,
        }
    }

    /// Names the moments, above everything else.
    pub fn name_guides(&mut self) {
        let mut free = 0.0;
        let mut guides = self.guides.clone();
        guides.sort_by(|one, other| one.at.total_cmp(&other.at));
        for guide in guides {
            let x = self.axis.x(guide.at);
            let length = guide.name.chars().count() as f64 * LETTER;
            let (class, from, to) = if x + length < WIDTH {
                ("moment", x + 4.0, x + 4.0 + length)
            } else {
                ("moment before", x - 4.0, x - 4.0)
            };
            if x < free {
                continue;
            }
            free = to + 8.0;
            self.put(format_args!(
                "<text class=\"{class}\" x=\"{from:.1}\" y=\"{:.1}\">{}</text>",
                self.height + 10.0,
                Escaped(guide.name)
            ));
        }
        self.height += 18.0;
    }

    /// A row of bars under one name.
    pub fn row(&mut self, name: &str, bars: &[Bar<'_>]) {
        const HEIGHT: f64 = 24.0;
        let top = self.height;
        self.put(format_args!(
            "<text class=\"name\" x=\"{}\" y=\"{}\">{}</text>",
            NAMES - 12.0,
            top + 16.5,
            Escaped(name)
        ));
        for bar in bars {
            self.bar(bar, top + 2.0, HEIGHT - 4.0);
        }
        self.height += HEIGHT + 4.0;
    }

    fn bar(&mut self, bar: &Bar<'_>, top: f64, height: f64) {
        let (from, to) = (self.axis.x(bar.span.from), self.axis.x(bar.span.to));
        let width = (to - from).max(2.5);
        self.put(format_args!(
            "<rect class=\"bar {}\" x=\"{from:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"3\"><title>{}</title></rect>",
            bar.class,
            Escaped(bar.hint)
        ));
        let needed = bar.label.chars().count() as f64 * LETTER;
        // Within a bar it is set bold.
        let (class, x) = if 1.1 * needed + 12.0 <= width {
            ("inside", from + 8.0)
        } else if !bar.beside {
            return;
        } else if from + width + needed + 12.0 <= WIDTH {
            ("beside", from + width + 6.0)
        } else {
            ("before", from - 6.0)
        };
        self.put(format_args!(
            "<text class=\"label {class}\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
            top + height / 2.0 + 4.0,
            Escaped(bar.label)
        ));
    }

    /// Curves over one scale that begins at nothing, each ending in its name.
    ///
    /// Where nothing was known for longer than the gap, a curve is broken.
    pub fn curves(&mut self, curves: &[(&str, &str, &[Point])], lines: &[(f64, &str)], gap: f64) {
        const HEIGHT: f64 = 150.0;
        let values = curves.iter().flat_map(|(_, _, points)| points.iter().map(|point| point.value));
        let drawn = lines.iter().map(|(value, _)| *value);
        let most = values.chain(drawn).fold(1.0, f64::max);
        let (step, top) = scale(most);
        let base = self.height + HEIGHT;
        let y = |value: f64| base - value / top * (HEIGHT - 12.0);
        let mut value = 0.0;
        while value <= top + 1e-9 {
            self.put(format_args!(
                "<line class=\"grid\" x1=\"{NAMES}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text class=\"scale\" x=\"{}\" y=\"{:.1}\">{}</text>",
                WIDTH - RIGHT,
                NAMES - 8.0,
                y(value) + 4.0,
                seconds(value),
                y = y(value),
            ));
            value += step;
        }
        for (value, name) in lines {
            self.put(format_args!(
                "<line class=\"bound\" x1=\"{NAMES}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text class=\"label boundname\" x=\"{}\" y=\"{:.1}\">{}</text>",
                WIDTH - RIGHT,
                NAMES + 6.0,
                y(*value) - 5.0,
                Escaped(name),
                y = y(*value),
            ));
        }
        for (_, class, points) in curves {
            let mut path = String::new();
            let mut before = f64::NEG_INFINITY;
            for point in *points {
                let command = if point.at - before > gap { 'M' } else { 'L' };
                before = point.at;
                // Writing to a String cannot fail.
                let _written = write!(path, "{command}{:.1} {:.1}", self.axis.x(point.at), y(point.value));
            }
            self.put(format_args!("<path class=\"curve {class}\" d=\"{path}\"/>"));
        }
        self.height = base + 4.0;
    }

    /// The drawing as SVG, with the seconds below.
    pub fn finish(mut self) -> String {
        let base = self.height;
        let mut lines = String::new();
        let guides = self.guides.clone();
        for guide in guides {
            let x = self.axis.x(guide.at);
            let _written = write!(
                lines,
                "<line class=\"guide\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{base:.1}\"/>"
            );
        }
        for tick in self.axis.ticks() {
            let x = self.axis.x(self.axis.zero + tick);
            let sign = if tick > 0.0 { "+" } else { "" };
            self.put(format_args!(
                "<line class=\"tick\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{base:.1}\" y2=\"{:.1}\"/><text class=\"time\" x=\"{x:.1}\" y=\"{:.1}\">{sign}{tick} s</text>",
                base + 4.0,
                base + 18.0
            ));
        }
        let Drawing { name, described, body, .. } = self;
        format!(
            "<svg viewBox=\"0 0 {WIDTH} {:.0}\" role=\"img\" aria-label=\"{}\"><desc>{}</desc>{lines}\
             <line class=\"axis\" x1=\"{NAMES}\" x2=\"{}\" y1=\"{base:.1}\" y2=\"{base:.1}\"/>{body}</svg>",
            base + AXIS,
            Escaped(&name),
            Escaped(&described),
            WIDTH - RIGHT
        )
    }

    fn put(&mut self, part: fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _written = self.body.write_fmt(part);
    }
}

/// A round step, and the round number above the largest value.
fn scale(most: f64) -> (f64, f64) {
    let steps = [0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 3600.0];
    let step = steps.into_iter().find(|step| most / step <= 4.0).unwrap_or(most);
    (step, (most / step).ceil() * step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        let told = Escaped("<script>alert('x')</script> & \"more\"").to_string();
        assert_eq!(told, "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &quot;more&quot;");
    }

    #[test]
    fn spans_are_told_as_a_reader_wants_them() {
        let told: Vec<String> = [0.0, 0.052, 4.142, 51.25, 60.0, 125.0].map(seconds).into();
        assert_eq!(told, ["0 s", "52 ms", "4.14 s", "51.2 s", "60 s", "2 min 5 s"]);
        assert_eq!(seconds(f64::INFINITY), "unknown");
    }

    #[test]
    fn the_axis_has_round_seconds() {
        let axis = Axis { span: Span { from: 95.5, to: 112.0 }, zero: 100.0 };
        assert_eq!(axis.ticks(), [-4.0, -2.0, 0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0]);
        assert!(axis.x(95.5) < axis.x(100.0) && axis.x(100.0) < axis.x(112.0));
    }

    #[test]
    fn a_scale_ends_above_everything() {
        assert_eq!(scale(3.4), (1.0, 4.0));
        assert_eq!(scale(11.0), (5.0, 15.0));
    }
}
