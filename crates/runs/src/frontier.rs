//! The trade-off between helpfulness and safety as numbers: which points nothing beats, the area that a method's points
//! dominate, and what a demanded safety buys. Plain numbers; nothing here draws.

/// A policy on the plane. More is better of both.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Share of safe responses, 0 to 1.
    pub safety: f64,
    /// Mean helpfulness in any unit, the same for all points that are compared.
    pub helpfulness: f64,
}

impl Point {
    fn is_known(&self) -> bool {
        self.safety.is_finite() && self.helpfulness.is_finite()
    }
}

/// The indices of the points that no other point beats in one coordinate without losing in the other, by rising safety (and
/// so by falling helpfulness). Of equal points the first counts; points that are not finite never do.
pub fn non_dominated(points: &[Point]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..points.len()).filter(|i| points[*i].is_known()).collect();
    // Safest first, of equally safe ones the most helpful, of equal ones the first.
    order.sort_by(|a, b| {
        let (p, q) = (points[*a], points[*b]);
        q.safety.total_cmp(&p.safety).then(q.helpfulness.total_cmp(&p.helpfulness)).then(a.cmp(b))
    });
    let mut best = f64::NEG_INFINITY;
    order.retain(|i| {
        let better = points[*i].helpfulness > best;
        best = best.max(points[*i].helpfulness);
        better
    });
    order.reverse();
    order
}

/// The area between `worst` and the points' frontier, in units of helpfulness (safety has none): every policy in it is beaten
/// by one of the points. 0 without a point better than `worst` in both coordinates. For two dimensions this is the
/// hypervolume indicator of Zitzler and Thiele (1999).
pub fn hypervolume(points: &[Point], worst: Point) -> f64 {
    let (mut area, mut from) = (0.0, worst.safety);
    for index in non_dominated(points) {
        let Point { safety, helpfulness } = points[index];
        if safety > from && helpfulness > worst.helpfulness {
            area += (safety - from) * (helpfulness - worst.helpfulness);
            from = safety;
        }
    }
    area
}

/// The most helpful point whose safety is at least `floor`; of equally helpful ones the safest. To demand that the floor holds
/// beyond doubt, give the lower ends of the intervals as safety.
pub fn best_at_floor(points: &[Point], floor: f64) -> Option<usize> {
    let allowed = (0..points.len()).filter(|i| points[*i].is_known() && points[*i].safety >= floor);
    allowed.max_by(|a, b| {
        let (p, q) = (points[*a], points[*b]);
        p.helpfulness.total_cmp(&q.helpfulness).then(p.safety.total_cmp(&q.safety)).then(b.cmp(a))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(of: &[(f64, f64)]) -> Vec<Point> {
        of.iter().map(|(safety, helpfulness)| Point { safety: *safety, helpfulness: *helpfulness }).collect()
    }

    const WORST: Point = Point { safety: 0.0, helpfulness: 0.0 };

    #[test]
    fn beaten_equal_and_unknown_points_are_not_on_the_frontier() {
        let all = points(&[
            (0.9, 1.0),
            (0.5, 2.0),
            (0.5, 1.5),
            (0.9, 1.0),
            (f64::NAN, 9.0),
            (0.4, 2.0),
            (0.95, 1.0),
        ]);
        assert_eq!(non_dominated(&all), [1, 6]);
        assert_eq!(non_dominated(&[]), Vec::<usize>::new());
    }

    #[test]
    fn area_of_steps_counts_nothing_twice() {
        // Two steps: 0.5 x 2 and (1 - 0.5) x 1; a beaten point and one below the worst add nothing.
        let all = points(&[(0.5, 2.0), (1.0, 1.0), (0.4, 0.5), (0.9, -1.0)]);
        assert!((hypervolume(&all, WORST) - 1.5).abs() < 1e-12);
        assert_eq!(hypervolume(&points(&[(0.3, -0.1)]), WORST), 0.0);
        assert_eq!(hypervolume(&all, Point { safety: 1.0, helpfulness: 0.0 }), 0.0);
        // Negative helpfulness is a matter of where the scale begins.
        assert!(
            (hypervolume(&points(&[(0.5, -1.0)]), Point { safety: 0.0, helpfulness: -3.0 }) - 1.0).abs()
                < 1e-12
        );
    }

    #[test]
    fn more_points_never_shrink_the_area() {
        let all = points(&[(0.2, 1.0), (0.7, 0.4), (0.9, 0.9), (0.1, 3.0), (0.95, 0.1)]);
        let areas: Vec<f64> = (0..=all.len()).map(|n| hypervolume(&all[..n], WORST)).collect();
        assert!(areas.windows(2).all(|pair| pair[1] >= pair[0]), "{areas:?}");
    }

    #[test]
    fn a_floor_buys_the_most_helpful_point_above_it() {
        let all = points(&[(0.5, 2.0), (0.9, 1.0), (0.95, 1.0), (1.0, 0.2)]);
        let at = |floor| best_at_floor(&all, floor);
        assert_eq!(
            [at(0.0), at(0.8), at(0.95), at(0.99), at(1.01)],
            [Some(0), Some(2), Some(2), Some(3), None]
        );
    }
}
