// SPDX-License-Identifier: GPL-2.0

//! What a socket may ask for: ranges and rights of `TCP_PCAP_IN` and `TCP_PCAP_OUT`; and what a
//! namespace keeps of a packet.

use crate::abi::layout::{Dir, OPT_IN, OPT_OUT, PACKETS_HARD_MAX};
use kernel::prelude::*;

/// The direction that an option sets.
///
/// # Errors
///
/// `ENOPROTOOPT` for any other option.
pub(crate) fn dir_of_option(optname: c_int) -> Result<Dir> {
    match optname {
        OPT_IN => Ok(Dir::In),
        OPT_OUT => Ok(Dir::Out),
        _ => Err(ENOPROTOOPT),
    }
}

/// Checks the size that a caller asks for, against `max` = `net.ipv4.tcp_pcap_packets_max`.
///
/// # Errors
///
/// `EINVAL` if it is no size at all, `EPERM` if it is above `max` and the caller has no right to
/// that.
pub(crate) fn check_size(val: c_int, max: u32, may_exceed: impl FnOnce() -> bool) -> Result<u32> {
    let size = u32::try_from(val).map_err(|_| EINVAL)?;
    if size > PACKETS_HARD_MAX {
        return Err(EINVAL);
    }
    if size > max && !may_exceed() {
        return Err(EPERM);
    }
    Ok(size)
}

/// Bytes of payload to keep, where both namespaces have a say by `net.ipv4.tcp_pcap_snaplen`: -1,
/// which is all, becomes more than a packet can have.
#[inline]
pub(crate) fn snaplen(own: c_int, host: c_int) -> u32 {
    (own as u32).min(host as u32)
}

#[cfg(CONFIG_TCP_PCAP_KUNIT_TEST)]
#[kunit_tests(tcp_pcap_config)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_rights() {
        const MAX: u32 = 1024;
        let cases: [(c_int, bool, Result<u32>); 10] = [
            (-1, true, Err(EINVAL)),
            (c_int::MIN, true, Err(EINVAL)),
            (0, false, Ok(0)),
            (1, false, Ok(1)),
            (1024, false, Ok(1024)),
            (1025, false, Err(EPERM)),
            (1025, true, Ok(1025)),
            (65535, true, Ok(65535)),
            (65536, true, Err(EINVAL)),
            (c_int::MAX, true, Err(EINVAL)),
        ];
        for (val, privileged, expected) in cases {
            assert_eq!(check_size(val, MAX, || privileged), expected);
        }
        assert_eq!(check_size(1, 0, || false), Err(EPERM));
        assert_eq!(check_size(0, 0, || false), Ok(0));
    }

    #[test]
    fn rights_are_not_asked_for_without_need() {
        assert_eq!(check_size(5, 5, unreachable_right), Ok(5));
        assert_eq!(check_size(-5, 5, unreachable_right), Err(EINVAL));
    }

    fn unreachable_right() -> bool {
        assert!(false);
        true
    }

    #[test]
    fn the_smaller_snaplen_counts_and_all_is_the_largest() {
        for (own, host, expected) in [
            (-1, -1, u32::MAX),
            (-1, 10, 10),
            (10, -1, 10),
            (0, -1, 0),
            (-1, 0, 0),
            (7, 9, 7),
            (c_int::MAX, -1, c_int::MAX as u32),
        ] {
            assert_eq!(snaplen(own, host), expected);
        }
    }

    #[test]
    fn each_option_has_its_own_direction() {
        assert_eq!(dir_of_option(47), Ok(Dir::Out));
        assert_eq!(dir_of_option(48), Ok(Dir::In));
        assert_eq!(dir_of_option(46), Err(ENOPROTOOPT));
        assert_eq!(dir_of_option(-1), Err(ENOPROTOOPT));
    }
}
