//! How methods are told apart: a colour class (`m0` to `m7`, defined in report.css for light and dark) and a
//! marker shape, so that colour is never the only difference.

use super::data::MethodReport;
use std::fmt::Write;

/// Which look each method has: methods of one family share theirs.
pub(crate) struct Looks {
    /// Families in the order in which they appear; a method without one is its own.
    pub(crate) families: Vec<String>,
    of_method: Vec<usize>,
}

impl Looks {
    pub(crate) fn new(methods: &[MethodReport]) -> Self {
        let mut looks = Self { families: Vec::new(), of_method: Vec::new() };
        for method in methods {
            let family = if method.family.is_empty() { &method.name } else { &method.family };
            let known = looks.families.iter().position(|f| f == family);
            looks.of_method.push(known.unwrap_or(looks.families.len()));
            if known.is_none() {
                looks.families.push(family.clone());
            }
        }
        looks
    }

    /// The look of the method at `index`: the index of its family.
    pub(crate) fn of(&self, index: usize) -> usize {
        self.of_method.get(index).copied().unwrap_or(index)
    }

    /// The methods of a family.
    pub(crate) fn members(&self, family: usize) -> Vec<usize> {
        (0..self.of_method.len()).filter(|method| self.of_method[*method] == family).collect()
    }
}

/// Colours in report.css.
const COLOURS: usize = 8;

/// The colour class of the look at `index`.
pub(crate) fn colour(index: usize) -> String {
    format!("m{}", index % COLOURS)
}

/// The marker of the look at `index` around (x, y) as an SVG element.
pub(crate) fn marker(index: usize, x: f64, y: f64, r: f64) -> String {
    // Shapes change again after a round of colours, so that 64 methods differ.
    let shape = (index + index / COLOURS) % COLOURS;
    let polygon = |corners: &[(f64, f64)]| {
        let mut points = String::new();
        for (dx, dy) in corners {
            let _ = write!(points, "{:.1},{:.1} ", x + dx * r, y + dy * r);
        }
        format!("<polygon class=\"mark\" points=\"{}\"/>", points.trim_end())
    };
    match shape {
        0 => format!("<circle class=\"mark\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{r:.1}\"/>"),
        1 => polygon(&[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]),
        2 => polygon(&[(0.0, -1.15), (1.1, 0.85), (-1.1, 0.85)]),
        3 => polygon(&[(0.0, -1.25), (1.25, 0.0), (0.0, 1.25), (-1.25, 0.0)]),
        4 => polygon(&[(0.0, 1.15), (1.1, -0.85), (-1.1, -0.85)]),
        5 => polygon(&cross(0.42)),
        6 => polygon(&[(0.0, -1.15), (1.1, -0.35), (0.7, 0.95), (-0.7, 0.95), (-1.1, -0.35)]),
        _ => polygon(&[(-1.2, 0.0), (-0.6, -1.0), (0.6, -1.0), (1.2, 0.0), (0.6, 1.0), (-0.6, 1.0)]),
    }
}

/// A star for what is no method: the reference, the optimum.
pub(crate) fn landmark(x: f64, y: f64, r: f64) -> String {
    let mut points = String::new();
    for i in 0..8 {
        let angle = f64::from(i) * std::f64::consts::FRAC_PI_4;
        let radius = if i % 2 == 0 { r * 1.3 } else { r * 0.5 };
        let _ = write!(points, "{:.1},{:.1} ", x + radius * angle.sin(), y - radius * angle.cos());
    }
    format!("<polygon class=\"star\" points=\"{}\"/>", points.trim_end())
}

/// The swatch of a legend.
pub(crate) fn swatch(index: usize) -> String {
    format!(
        "<svg class=\"swatch {}\" viewBox=\"0 0 22 14\" width=\"22\" height=\"14\" aria-hidden=\"true\">\
         <line class=\"line\" x1=\"0\" y1=\"7\" x2=\"22\" y2=\"7\"/>{}</svg>",
        colour(index),
        marker(index, 11.0, 7.0, 4.5)
    )
}

/// The corners of a plus sign with arms of half-width `w`.
fn cross(w: f64) -> [(f64, f64); 12] {
    let l = 1.15;
    [
        (-w, -l),
        (w, -l),
        (w, -w),
        (l, -w),
        (l, w),
        (w, w),
        (w, l),
        (-w, l),
        (-w, w),
        (-l, w),
        (-l, -w),
        (-w, -w),
    ]
}
