//! Exact money.

/// What billed time costs, in micros: price × seconds × GPUs ÷ (3600 × quantity), multiplied in 128 bits and rounded once, half away from zero.
///
/// `None`: more than 64 bits hold. `quantity` is how many GPU-hours the price pays for.
#[must_use]
pub fn amount_micros(
    price_micros: i64,
    quantity: i64,
    gpu_count: i32,
    billed_seconds: i64,
) -> Option<i64> {
    // Each factor has at most 63, 63 and 31 bits; what prices and records allow stays far below 127 together.
    let seconds = i128::from(billed_seconds).checked_mul(i128::from(gpu_count))?;
    let total = i128::from(price_micros).checked_mul(seconds)?;
    let divisor = i128::from(quantity.max(1)) * 3600;
    let half = if total < 0 { -divisor / 2 } else { divisor / 2 };
    i64::try_from((total + half) / divisor).ok()
}

/// Micros as a decimal number with at least two places: 1,890,000 is `1.89`.
#[must_use]
pub fn decimal(micros: i64) -> String {
    let sign = if micros < 0 { "-" } else { "" };
    let absolute = micros.unsigned_abs();
    let fraction = format!("{:06}", absolute % 1_000_000);
    let (cents, rest) = fraction.split_at(2);
    format!(
        "{sign}{}.{cents}{}",
        absolute / 1_000_000,
        rest.trim_end_matches('0')
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_hour_of_eight_gpus_costs_eight_times_the_price() {
        assert_eq!(amount_micros(1_890_000, 1, 8, 3600), Some(15_120_000));
        assert_eq!(amount_micros(1_890_000, 1, 8, 1), Some(4200));
        assert_eq!(amount_micros(0, 1, 8, 3600), Some(0));
    }

    #[test]
    fn halves_are_rounded_away_from_zero_once() {
        // 1800 s at 1 micro: half a micro.
        assert_eq!(amount_micros(1, 1, 1, 1800), Some(1));
        assert_eq!(amount_micros(1, 1, 1, -1800), Some(-1));
        assert_eq!(amount_micros(1, 1, 1, 1799), Some(0));
        assert_eq!(amount_micros(1, 1000, 1, 3600), Some(0));
        assert_eq!(amount_micros(500, 1000, 1, 3600), Some(1));
    }

    #[test]
    fn what_does_not_fit_is_refused_and_not_wrapped() {
        assert_eq!(amount_micros(i64::MAX, 1, 64, 3600), None);
        assert_eq!(amount_micros(i64::MAX, 1, i32::MAX, i64::MAX), None);
    }

    #[test]
    fn micros_are_shown_exactly() {
        for (micros, shown) in [
            (0, "0.00"),
            (1, "0.000001"),
            (1_890_000, "1.89"),
            (-15_500_000, "-15.50"),
            (2_100_001, "2.100001"),
        ] {
            assert_eq!(decimal(micros), shown);
        }
    }

    proptest! {
        #[test]
        fn the_rounded_amount_is_within_half_a_micro_of_the_exact_one(
            price in 0_i64..1_000_000_000_000, quantity in 1_i64..1_000_000, gpus in 1_i32..=64, seconds in 0_i64..=3600,
        ) {
            let amount = i128::from(amount_micros(price, quantity, gpus, seconds).unwrap());
            let exact_times_divisor = i128::from(price) * i128::from(seconds) * i128::from(gpus);
            let divisor = i128::from(quantity) * 3600;
            prop_assert!((amount * divisor - exact_times_divisor).abs() * 2 <= divisor);
        }

        #[test]
        fn a_reversal_takes_back_exactly_what_was_posted(
            price in 0_i64..1_000_000_000_000, gpus in 1_i32..=64, seconds in 0_i64..=3600,
        ) {
            let posted = amount_micros(price, 1, gpus, seconds).unwrap();
            prop_assert_eq!(amount_micros(price, 1, gpus, -seconds), Some(-posted));
        }
    }
}
