//! Solves a spring network: nodes joined by springs of stiffness >= 0 that want a certain offset, pushed by forces,
//! one node held at 0. Elimination only adds, multiplies and divides non-negative stiffnesses (Grassmann, Taksar,
//! Heyman) and averages offsets (star to mesh with sources), so that it stays accurate where stiffnesses differ by a
//! hundred orders of magnitude, as they do under a large penalty.

/// Springs between `n` nodes, the last of which is held.
#[derive(Debug, Clone)]
pub(crate) struct Springs {
    n: usize,
    /// Symmetric.
    stiffness: Vec<f64>,
    /// Antisymmetric: the x_i - x_j that spring (i, j) wants.
    offset: Vec<f64>,
}

impl Springs {
    pub(crate) fn new(n: usize) -> Self {
        Self { n, stiffness: vec![0.0; n * n], offset: vec![0.0; n * n] }
    }

    /// Joins i and j by one more spring that wants x_i - x_j = `offset`.
    pub(crate) fn join(&mut self, i: usize, j: usize, stiffness: f64, offset: f64) {
        let (there, back) = (i * self.n + j, j * self.n + i);
        let total = self.stiffness[there] + stiffness;
        if total > 0.0 {
            // two parallel springs are one: stiffnesses add, offsets average
            let moved = self.offset[there] + (offset - self.offset[there]) * (stiffness / total);
            (self.offset[there], self.offset[back]) = (moved, -moved);
        }
        (self.stiffness[there], self.stiffness[back]) = (total, total);
    }

    /// Positions at rest; the last node stays at 0. A node that nothing holds stays where it is.
    pub(crate) fn positions(mut self, forces: &[f64]) -> Vec<f64> {
        let n = self.n;
        let mut forces = forces.to_vec();
        forces.resize(n, 0.0);
        let mut totals = vec![0.0; n];
        for a in 0..n - 1 {
            let row = a * n;
            let total: f64 = self.stiffness[row + a + 1..row + n].iter().sum();
            totals[a] = total;
            if total == 0.0 {
                continue;
            }
            for b in a + 1..n {
                let share = self.stiffness[row + b] / total;
                forces[b] += share * forces[a];
                for c in a + 1..b {
                    let through = share * self.stiffness[row + c];
                    self.join(b, c, through, self.offset[row + c] - self.offset[row + b]);
                }
            }
        }
        let mut position = vec![0.0; n];
        for a in (0..n - 1).rev().filter(|a| totals[*a] > 0.0) {
            let held =
                |b: usize| self.stiffness[a * n + b] / totals[a] * (position[b] + self.offset[a * n + b]);
            let rest: f64 = (a + 1..n).map(held).sum();
            position[a] = forces[a] / totals[a] + rest;
        }
        position
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_of_very_unequal_springs_is_solved_exactly() {
        let mut chain = Springs::new(4);
        for (i, stiffness) in [1e-60, 1e80, 2.0].into_iter().enumerate() {
            chain.join(i, i + 1, stiffness, 0.0);
        }
        // a force of 1 at the far end stretches each spring by 1 / stiffness
        let position = chain.positions(&[1.0, 0.0, 0.0, 0.0]);
        assert!((position[0] / 1e60 - 1.0).abs() < 1e-15);
        assert!((position[2] - 0.5).abs() < 1e-15 && (position[1] - 0.5).abs() < 1e-15);
        assert_eq!(position[3], 0.0);
    }

    #[test]
    fn a_stiff_spring_does_not_drown_the_offset_of_a_soft_one() {
        let mut net = Springs::new(3);
        net.join(0, 1, 1e90, -2.0);
        net.join(0, 2, 1e-3, 1.0);
        net.join(1, 2, 3e-3, 1.0);
        // stiff: x0 = x1 - 2; soft: x1 - 2 + 3 x1 = 4 in the mean
        let position = net.positions(&[]);
        assert!((position[0] + 0.5).abs() < 1e-14 && (position[1] - 1.5).abs() < 1e-14, "{position:?}");
    }
}
