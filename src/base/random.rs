//! Random numbers from the kernel.

use ring::rand::SecureRandom;

/// `N` random bytes.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    ring::rand::SystemRandom::new().fill(&mut bytes).expect("the kernel has random numbers");
    bytes
}

/// 32 random bits.
pub fn random_u32() -> u32 {
    u32::from_le_bytes(random_bytes())
}

/// 64 random bits.
pub fn random_u64() -> u64 {
    u64::from_le_bytes(random_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_draws_differ() {
        assert_ne!(random_bytes::<16>(), random_bytes::<16>());
        assert_ne!(random_u64(), random_u64());
        // One of them may repeat by chance, four in a row do not.
        let drawn: Vec<u32> = (0..4).map(|_| random_u32()).collect();
        assert!(drawn.iter().any(|number| *number != drawn[0]));
    }
}
