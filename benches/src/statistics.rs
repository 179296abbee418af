//! Medians, spreads and percentiles of what was measured: pure.

/// The middle of some measurements, and their ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The middle one; of an even number, the mean of the two in the middle.
    pub median: f64,
    /// The lowest.
    pub min: f64,
    /// The highest.
    pub max: f64,
}

impl Spread {
    /// The spread of `values`; none when there are none, or when one is no number.
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() || values.iter().any(|value| !value.is_finite()) {
            return None;
        }
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) };
        Some(Self { median, min: sorted[0], max: sorted[sorted.len() - 1] })
    }
}

/// The value that so large a share of them does not exceed; zero without any.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(place).copied().unwrap_or_default()
}

/// `ours / theirs`; none when that says nothing.
pub fn ratio(ours: f64, theirs: f64) -> Option<f64> {
    let ratio = ours / theirs;
    (ratio.is_finite() && theirs > 0.0).then_some(ratio)
}

/// Jain's index of fairness: 1 when all are the same, `1 / n` when one of `n` has everything; zero without any.
pub fn fairness(values: &[f64]) -> f64 {
    let (sum, squares) = values.iter().fold((0.0, 0.0), |(sum, squares), value| (sum + value, squares + value * value));
    if squares > 0.0 { sum * sum / (values.len() as f64 * squares) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        let spread = Spread::of(&[9.0, 1.0, 4.0]).unwrap();
        assert_eq!((spread.median, spread.min, spread.max), (4.0, 1.0, 9.0));
        assert_eq!(Spread::of(&[4.0, 2.0]).unwrap().median, 3.0);
        assert_eq!(Spread::of(&[7.0]).unwrap(), Spread { median: 7.0, min: 7.0, max: 7.0 });
    }

    #[test]
    fn nothing_has_no_median() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[1.0, f64::NAN]), None);
    }

    #[test]
    fn percentiles_are_of_the_values_that_there_are() {
        let values = [5.0, 1.0, 3.0, 2.0, 4.0];
        assert_eq!((percentile(&values, 0.5), percentile(&values, 0.99), percentile(&values, 0.01)), (3.0, 5.0, 1.0));
        assert_eq!(percentile(&[], 0.5), 0.0);
    }

    #[test]
    fn a_ratio_to_nothing_is_none() {
        assert_eq!(ratio(3.0, 2.0), Some(1.5));
        assert_eq!(ratio(0.0, 2.0), Some(0.0));
        assert_eq!(ratio(3.0, 0.0), None);
        assert_eq!(ratio(f64::NAN, 1.0), None);
    }

    #[test]
    fn fairness_of_equals_is_one() {
        assert_eq!(fairness(&[3.0, 3.0, 3.0]), 1.0);
        assert_eq!(fairness(&[4.0, 0.0, 0.0, 0.0]), 0.25);
        assert_eq!((fairness(&[]), fairness(&[0.0])), (0.0, 0.0));
        let in_turn: Vec<f64> = (1..=100).map(|nth| 1.0 / f64::from(nth)).collect();
        assert!((fairness(&in_turn) - 0.165).abs() < 0.01);
    }
}
