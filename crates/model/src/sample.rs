//! From a row of logits to one token: the most likely, or drawn after temperature, top-k and top-p, in the order
//! in which transformers applies them.

/// How a token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sampling {
    /// 0: the most likely token.
    pub temperature: f64,
    /// Share of probability kept, (0, 1]; 1 keeps all.
    pub top_p: f64,
    /// Number of tokens kept; 0 keeps all.
    pub top_k: usize,
}

impl Sampling {
    /// Chooses a token by `draw`, uniform in [0, 1); `candidates` is reused memory. The first of equal logits counts
    /// as the larger.
    pub(crate) fn choose(&self, logits: &[f32], draw: f64, candidates: &mut Vec<(f64, u32)>) -> u32 {
        let best = most_likely(logits);
        if self.temperature == 0.0 {
            return best;
        }
        let peak = f64::from(logits[best as usize]);
        candidates.clear();
        candidates.extend((0u32..).zip(logits).map(|(id, x)| (f64::from(*x), id)));
        self.keep_top_k(candidates);
        candidates.iter_mut().for_each(|c| c.0 = ((c.0 - peak) / self.temperature).exp());
        let total = self.keep_top_p(candidates);
        let mut left = draw * total;
        for (weight, id) in candidates.iter() {
            left -= weight;
            if left < 0.0 {
                return *id;
            }
        }
        // Rounding can leave a remainder after the last; the most likely token is always kept.
        best
    }

    fn keep_top_k(&self, candidates: &mut Vec<(f64, u32)>) {
        if (1..candidates.len()).contains(&self.top_k) {
            candidates.select_nth_unstable_by(self.top_k - 1, larger_first);
            candidates.truncate(self.top_k);
        }
    }

    /// Keeps the fewest tokens whose share reaches `top_p`; returns their sum. The order is by weight then.
    fn keep_top_p(&self, candidates: &mut Vec<(f64, u32)>) -> f64 {
        let total: f64 = candidates.iter().map(|c| c.0).sum();
        if self.top_p >= 1.0 {
            return total;
        }
        // Tokens below this bound hold less than 1 - top_p together, so they are never needed: no need to sort
        // the whole vocabulary.
        let bound = total * (1.0 - self.top_p) / candidates.len() as f64;
        candidates.retain(|c| c.0 >= bound);
        candidates.sort_unstable_by(larger_first);
        let (mut sum, mut kept) = (0.0, 0);
        while kept < candidates.len() && (kept == 0 || sum < self.top_p * total) {
            sum += candidates[kept].0;
            kept += 1;
        }
        candidates.truncate(kept);
        sum
    }
}

fn larger_first(a: &(f64, u32), b: &(f64, u32)) -> std::cmp::Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

fn most_likely(logits: &[f32]) -> u32 {
    // Blocks first, for their largest values alone, which vector instructions find: then one block is searched.
    const BLOCK: usize = 256;
    let largest = |block: &[f32]| {
        let (parts, rest) = block.as_chunks::<16>();
        let mut lanes = [f32::NEG_INFINITY; 16];
        for part in parts {
            for (lane, x) in lanes.iter_mut().zip(part) {
                *lane = if *x > *lane { *x } else { *lane };
            }
        }
        lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, x| if *x > a { *x } else { a })
    };
    let mut best = (0, f32::NEG_INFINITY);
    for (index, block) in logits.chunks(BLOCK).enumerate() {
        let value = largest(block);
        if value > best.1 {
            best = (index * BLOCK, value);
        }
    }
    let at = logits[best.0..].iter().position(|x| *x == best.1).unwrap_or(0);
    (best.0 + at) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use bso_durable::Seed;
    use rand::Rng;

    fn draws(sampling: Sampling, logits: &[f32], count: usize) -> Vec<f64> {
        let (mut rng, mut memory, mut counts) = (Seed::new(3).rng(), Vec::new(), vec![0f64; logits.len()]);
        for _ in 0..count {
            counts[sampling.choose(logits, rng.random(), &mut memory) as usize] += 1.0;
        }
        counts.into_iter().map(|c| c / count as f64).collect()
    }

    #[test]
    fn temperature_zero_takes_the_most_likely_and_the_first_of_equals() {
        let greedy = Sampling { temperature: 0.0, top_p: 1.0, top_k: 0 };
        assert_eq!(draws(greedy, &[0.0, 3.0, 3.0, 1.0], 5)[1], 1.0);
    }

    #[test]
    fn the_most_likely_is_found_wherever_it_stands() {
        for (length, at) in [(1, 0), (300, 299), (1000, 256), (1000, 0), (513, 300)] {
            let mut logits: Vec<f32> = (0..length).map(|i| -1.0 - (i * 37 % 101) as f32).collect();
            logits[at] = 0.5;
            logits[length - 1] = 0.5;
            assert_eq!(most_likely(&logits), at as u32);
            logits[0] = f32::NAN;
            assert_eq!(most_likely(&logits), if at == 0 { length - 1 } else { at } as u32);
        }
        assert_eq!(most_likely(&[f32::NEG_INFINITY; 3]), 0);
    }

    #[test]
    fn frequencies_follow_the_tempered_softmax() {
        let logits: Vec<f32> = [0.5f32, 0.3, 0.15, 0.05].iter().map(|p| 2.0 * p.ln()).collect();
        let drawn = draws(Sampling { temperature: 2.0, top_p: 1.0, top_k: 0 }, &logits, 40_000);
        for (share, expected) in drawn.iter().zip([0.5, 0.3, 0.15, 0.05]) {
            assert!((share - expected).abs() < 0.01, "{drawn:?}");
        }
    }

    #[test]
    fn top_p_keeps_the_fewest_that_reach_it_and_top_k_the_largest() {
        let logits: Vec<f32> = [0.05f32, 0.5, 0.3, 0.15].iter().map(|p| p.ln()).collect();
        let nucleus = draws(Sampling { temperature: 1.0, top_p: 0.6, top_k: 0 }, &logits, 20_000);
        assert_eq!((nucleus[0], nucleus[3]), (0.0, 0.0));
        assert!((nucleus[1] - 0.625).abs() < 0.02, "{nucleus:?}");
        let top = draws(Sampling { temperature: 1.0, top_p: 1.0, top_k: 3 }, &logits, 20_000);
        assert_eq!(top[0], 0.0);
        assert!((top[3] - 0.15 / 0.95).abs() < 0.02, "{top:?}");
        let tiny = draws(Sampling { temperature: 1.0, top_p: 1e-9, top_k: 0 }, &logits, 50);
        assert_eq!(tiny[1], 1.0);
    }
}
