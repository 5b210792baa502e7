//! Plots as inline SVG. Colours are the style sheet's, so that they follow light, dark and print.

use super::html::{Html, plain, tag};

/// Colours of the style sheet for methods, `s0`, `s1`, …; with each round a series is dashed in another way.
pub const COLOURS: usize = 10;

/// The classes of series `index`.
pub fn series(index: usize) -> String {
    format!("s{} dash{}", index % COLOURS, (index / COLOURS).min(3))
}

/// One direction of a plot.
#[derive(Debug, Clone)]
pub struct Axis {
    label: String,
    low: f64,
    high: f64,
    log: bool,
    ticks: Vec<f64>,
}

impl Axis {
    /// From `low` to `high`, exactly.
    pub fn between(label: &str, low: f64, high: f64) -> Self {
        // What has no extent gets one.
        let (low, high) = if high > low { (low, high) } else { (low - 0.5, low + 0.5) };
        Self { label: label.to_owned(), low, high, log: false, ticks: nice(low, high, 5) }
    }

    /// Around `values`, from one nice number to another; by powers of ten where positive values span more than 30-fold.
    pub fn around(label: &str, values: impl IntoIterator<Item = f64>) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        values.into_iter().filter(|v| v.is_finite()).for_each(|v| (low, high) = (low.min(v), high.max(v)));
        if low > high {
            return Self::between(label, 0.0, 1.0);
        }
        if low > 0.0 && high / low > 30.0 {
            let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
            let every = ((last - first) / 6 + 1) as usize;
            let ticks = (first..=last).step_by(every).map(|e| 10f64.powi(e)).collect();
            return Self { label: label.to_owned(), low: 10f64.powi(first), high: 10f64.powi(last), log: true, ticks };
        }
        let pad = if high > low { 0.0 } else { 0.5 * low.abs().max(1e-9) };
        let ticks = nice(low - pad, high + pad, 5);
        let step = if ticks.len() > 1 { ticks[1] - ticks[0] } else { high - low };
        let from = ((low - pad) / step).floor() * step;
        let to = ((high + pad) / step).ceil() * step;
        Self { label: label.to_owned(), low: from, high: to, log: false, ticks: nice(from, to, 5) }
    }

    fn share(&self, v: f64) -> f64 {
        if self.log {
            (v / self.low).log10() / (self.high / self.low).log10()
        } else {
            (v - self.low) / (self.high - self.low)
        }
    }

    fn tick(&self, v: f64) -> String {
        if self.log {
            return if (1e-3..1e4).contains(&v) { format!("{v}") } else { format!("{v:e}") };
        }
        let step = if self.ticks.len() > 1 { self.ticks[1] - self.ticks[0] } else { 1.0 };
        if step >= 10_000.0 || self.high.abs() < 1e-3 {
            return format!("{v:.0e}");
        }
        let decimals = (-step.log10().floor()).clamp(0.0, 6.0) as usize;
        format!("{v:.decimals$}")
    }
}

/// About `count` round numbers within `low..=high`.
fn nice(low: f64, high: f64, count: usize) -> Vec<f64> {
    let raw = (high - low) / count as f64;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= raw * 0.999).unwrap_or(power);
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last).map(|i| i as f64 * step).collect()
}

/// A plot with two axes.
#[derive(Debug, Clone)]
pub struct Plot {
    width: f64,
    height: f64,
    left: f64,
    bottom: f64,
    x: Axis,
    y: Axis,
    marks: Vec<Html>,
}

const TOP: f64 = 8.0;
const RIGHT: f64 = 12.0;

fn px(v: f64) -> String {
    format!("{v:.1}")
}

impl Plot {
    /// An empty one of so many pixels.
    pub fn new(width: f64, height: f64, x: Axis, y: Axis) -> Self {
        Self { width, height, left: 46.0, bottom: 38.0, x, y, marks: Vec::new() }
    }

    /// With room for words at the left.
    pub fn with_left(mut self, left: f64) -> Self {
        self.left = left;
        self
    }

    fn at_x(&self, v: f64) -> f64 {
        self.left + self.x.share(v).clamp(0.0, 1.0) * (self.width - self.left - RIGHT)
    }

    fn at_y(&self, v: f64) -> f64 {
        self.height - self.bottom - self.y.share(v).clamp(0.0, 1.0) * (self.height - self.bottom - TOP)
    }

    fn path(&self, points: &[(f64, f64)]) -> String {
        let mut out = String::new();
        for (i, (x, y)) in points.iter().enumerate() {
            let command = if i == 0 { 'M' } else { 'L' };
            out.push_str(&format!("{command}{} {}", px(self.at_x(*x)), px(self.at_y(*y))));
        }
        out
    }

    /// A line through `points`, thinned to what can be seen.
    pub fn line(&mut self, class: &str, points: &[(f64, f64)]) {
        let mut kept: Vec<(f64, f64)> = Vec::new();
        for (i, (x, y)) in points.iter().enumerate() {
            let far = kept.last().is_none_or(|(a, b)| {
                (self.at_x(*a) - self.at_x(*x)).abs() + (self.at_y(*b) - self.at_y(*y)).abs() >= 1.0
            });
            if far || i + 1 == points.len() {
                kept.push((*x, *y));
            }
        }
        let d = self.path(&kept);
        self.marks.push(tag("path", &[("class", &format!("line {class}")), ("d", &d)], Html::none()));
    }

    /// An area from the x axis up to steps `(from, to, height)`.
    pub fn steps(&mut self, class: &str, steps: &[(f64, f64, f64)]) {
        let mut points: Vec<(f64, f64)> = Vec::new();
        if let (Some(first), Some(last)) = (steps.first(), steps.last()) {
            points.push((first.0, self.y.low));
            steps.iter().for_each(|(from, to, height)| points.extend([(*from, *height), (*to, *height)]));
            points.push((last.1, self.y.low));
        }
        let d = self.path(&points);
        self.marks.push(tag("path", &[("class", &format!("area {class}")), ("d", &d)], Html::none()));
    }

    /// A line across at `x`.
    pub fn upright(&mut self, class: &str, x: f64) {
        let d = self.path(&[(x, self.y.low), (x, self.y.high)]);
        self.marks.push(tag("path", &[("class", &format!("line {class}")), ("d", &d)], Html::none()));
    }

    /// A dot.
    pub fn dot(&mut self, class: &str, (x, y): (f64, f64), radius: f64) {
        let (cx, cy, r) = (px(self.at_x(x)), px(self.at_y(y)), px(radius));
        let class = format!("dot {class}");
        self.marks.push(tag("circle", &[("class", &class), ("cx", &cx), ("cy", &cy), ("r", &r)], Html::none()));
    }

    /// A lying box plot around height `y`, as thick as `thick` of the y axis.
    pub fn lying_box(&mut self, class: &str, y: f64, thick: f64, five: [f64; 5]) {
        let [low, q1, median, q3, high] = five.map(|v| self.at_x(v));
        let (middle, half) = (self.at_y(y), (self.at_y(y - thick / 2.0) - self.at_y(y + thick / 2.0)) / 2.0);
        let line = |x1: f64, y1: f64, x2: f64, y2: f64, class: &str| {
            tag(
                "path",
                &[("class", class), ("d", &format!("M{} {}L{} {}", px(x1), px(y1), px(x2), px(y2)))],
                Html::none(),
            )
        };
        let rim = format!("whisker {class}");
        self.marks.push(line(low, middle, q1, middle, &rim));
        self.marks.push(line(q3, middle, high, middle, &rim));
        self.marks.push(line(low, middle - half / 2.0, low, middle + half / 2.0, &rim));
        self.marks.push(line(high, middle - half / 2.0, high, middle + half / 2.0, &rim));
        let width = px((q3 - q1).max(1.0));
        let (x, y, height) = (px(q1), px(middle - half), px(2.0 * half));
        let class = format!("box {class}");
        let rect = [("class", class.as_str()), ("x", &x), ("y", &y), ("width", &width), ("height", &height)];
        self.marks.push(tag("rect", &rect, Html::none()));
        self.marks.push(line(median, middle - half, median, middle + half, "median"));
    }

    /// Words at the left of height `y`.
    pub fn name(&mut self, y: f64, text: &str) {
        let (x, y) = (px(self.left - 6.0), px(self.at_y(y) + 4.0));
        self.marks.push(tag("text", &[("class", "tick"), ("x", &x), ("y", &y), ("text-anchor", "end")], text));
    }

    /// The plot; `said` is what it shows, for who cannot see it. Without `heights` the y axis has no numbers.
    pub fn finish(self, said: &str, heights: bool) -> Html {
        let (right, floor) = (self.width - RIGHT, self.height - self.bottom);
        let mut parts = Vec::new();
        for v in &self.x.ticks {
            let x = px(self.at_x(*v));
            let d = format!("M{x} {}V{}", px(TOP), px(floor));
            parts.push(tag("path", &[("class", "grid"), ("d", &d)], Html::none()));
            let y = px(floor + 14.0);
            let at = [("class", "tick"), ("x", x.as_str()), ("y", &y), ("text-anchor", "middle")];
            parts.push(tag("text", &at, self.x.tick(*v)));
        }
        if heights {
            for v in &self.y.ticks {
                let y = self.at_y(*v);
                let d = format!("M{} {}H{}", px(self.left), px(y), px(right));
                parts.push(tag("path", &[("class", "grid"), ("d", &d)], Html::none()));
                let (x, y) = (px(self.left - 5.0), px(y + 4.0));
                let at = [("class", "tick"), ("x", x.as_str()), ("y", &y), ("text-anchor", "end")];
                parts.push(tag("text", &at, self.y.tick(*v)));
            }
        }
        parts.extend(self.marks);
        let d = format!("M{} {}V{}H{}", px(self.left), px(TOP), px(floor), px(right));
        parts.push(tag("path", &[("class", "axis"), ("d", &d)], Html::none()));
        let (x, y) = (px((self.left + right) / 2.0), px(self.height - 6.0));
        let at = [("class", "label"), ("x", x.as_str()), ("y", &y), ("text-anchor", "middle")];
        parts.push(tag("text", &at, self.x.label.as_str()));
        let turned = format!("translate(11 {}) rotate(-90)", px((TOP + floor) / 2.0));
        let at = [("class", "label"), ("transform", turned.as_str()), ("text-anchor", "middle")];
        parts.push(tag("text", &at, self.y.label.as_str()));
        let view = format!("0 0 {} {}", px(self.width), px(self.height));
        let whole = [("viewBox", view.as_str()), ("role", "img"), ("aria-label", said)];
        tag("svg", &whole, parts)
    }
}

/// A plot with what it shows below it.
pub fn figure(plot: Html, caption: impl Into<Html>) -> Html {
    plain("figure", [plot, plain("figcaption", caption)])
}

/// Which colour is which: `(class, text)`.
pub fn legend(items: impl IntoIterator<Item = (String, String)>) -> Html {
    let item = |(class, text): (String, String)| {
        let d = tag("path", &[("class", &format!("line {class}")), ("d", "M1 6H27")], Html::none());
        let swatch = tag("svg", &[("class", "swatch"), ("viewBox", "0 0 28 12"), ("aria-hidden", "true")], d);
        plain("li", [swatch, Html::from(text)])
    };
    tag("ul", &[("class", "legend")], items.into_iter().map(item).collect::<Html>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within() {
        assert_eq!(nice(0.0, 1.0, 5), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(nice(3.0, 97.0, 5), [20.0, 40.0, 60.0, 80.0]);
        let axis = Axis::around("loss", [0.011, 0.029]);
        assert!(axis.low <= 0.011 && axis.high >= 0.029 && axis.high < 0.05, "{axis:?}");
        assert_eq!(axis.tick(axis.ticks[1]), "0.015");
        let wide = Axis::around("loss", [1e-4, 3.0]);
        assert!(wide.log && wide.tick(0.01) == "0.01", "{wide:?}");
        let none = Axis::around("loss", []);
        assert_eq!((none.low, none.high), (0.0, 1.0));
        let flat = Axis::around("loss", [2.0, 2.0]);
        assert!(flat.low < 2.0 && flat.high > 2.0, "{flat:?}");
    }

    #[test]
    fn lines_are_thinned_and_keep_their_ends() {
        let mut plot = Plot::new(300.0, 200.0, Axis::between("x", 0.0, 1.0), Axis::between("y", 0.0, 1.0));
        let points: Vec<(f64, f64)> = (0..=10_000).map(|i| (f64::from(i) / 1e4, f64::from(i) / 1e4)).collect();
        plot.line("s0", &points);
        let out = plot.finish("a <line>", true).into_string();
        assert!(out.len() < 12_000 && out.contains("aria-label=\"a &lt;line&gt;\""), "{} bytes", out.len());
        assert!(out.contains("L288.0 8.0\""), "it ends in its last point: {out}");
        assert!(!out.contains("NaN") && !out.contains("inf"));
    }
}
