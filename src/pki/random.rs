//! Where chance comes from: drawn through a seam, so that tests can draw the same numbers twice.

/// A source of uniformly distributed numbers. Not for keys or serial numbers, which always come from the system.
pub trait Rng: Send {
    /// A number drawn uniformly from 0 (included) to 1 (excluded).
    fn unit(&mut self) -> f64;
}

/// The system's own generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRng;

impl Rng for SystemRng {
    /// Should the system have no randomness left, the middle: certificates are still renewed, only not spread.
    fn unit(&mut self) -> f64 {
        let mut bytes = [0; 8];
        match aws_lc_rs::rand::fill(&mut bytes) {
            Ok(()) => unit_from(bytes),
            Err(_) => 0.5,
        }
    }
}

/// The upper 53 bits as a fraction: as many as fit without rounding, hence never 1.
fn unit_from(bytes: [u8; 8]) -> f64 {
    let [a, b, c, d, e, f, g, h] = bytes;
    let high = f64::from(u32::from_be_bytes([a, b, c, d]));
    let low = f64::from(u32::from_be_bytes([e, f, g, h]) >> 11);
    (high + low / f64::from(1_u32 << 21)) / 4_294_967_296.0
}

/// Draws the same numbers for the same seed (SplitMix64).
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct SeededRng(pub(crate) u64);

#[cfg(test)]
impl Rng for SeededRng {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        unit_from((mixed ^ (mixed >> 31)).to_be_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_is_at_least_zero_and_below_one() {
        assert!(unit_from([0; 8]).abs() < f64::EPSILON);
        assert!(unit_from([0xff; 8]) < 1.0);
        assert!((0.0..1.0).contains(&SystemRng.unit()));
    }
}
