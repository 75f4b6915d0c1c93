// SPDX-License-Identifier: GPL-2.0

//! A real socket for unit tests.

use super::layout::Owner;
use core::ptr;
use kernel::{bindings, error::to_result, net::sock::TcpSock, prelude::*};

/// A TCP socket that belongs to a test.
///
/// # Invariants
///
/// Points at a socket that only this value knows.
pub(crate) struct TestSock(*mut bindings::socket);

impl TestSock {
    pub(crate) fn new() -> Result<Self> {
        let mut sock = ptr::null_mut();
        // SAFETY: The initial namespace is always there, `sock` can be written.
        to_result(unsafe {
            bindings::sock_create_kern(
                &raw mut bindings::init_net,
                bindings::AF_INET as c_int,
                bindings::sock_type_SOCK_STREAM as c_int,
                bindings::IPPROTO_TCP as c_int,
                &mut sock,
            )
        })?;
        super::layout::enable();
        // INVARIANT: A new socket.
        Ok(Self(sock))
    }

    pub(crate) fn sk(&self) -> &TcpSock {
        // SAFETY: By the type invariant nobody else can own the socket.
        unsafe { TcpSock::from_raw((*self.0).sk) }
    }
}

impl TestSock {
    /// The history of the socket; a test has one at a time.
    pub(crate) fn owner(&self) -> Option<Owner<'_>> {
        // SAFETY: By the type invariant only the test itself can have another one.
        unsafe { Owner::of(self.sk()) }
    }
}

impl Drop for TestSock {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; it is not used any more.
        unsafe { bindings::sock_release(self.0) }
    }
}
