//! Where routers and controllers are.

/// One or more addresses, `http://host:port`, `https://host:port` or `host:port`: a text with commas between them, a list,
/// or `()` for none.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no list of addresses",
    note = "give a text such as \"http://a:7600,http://b:7600\", a list of texts, or `()` for none"
)]
pub trait Addresses {
    fn into_addresses(self) -> Vec<String>;
}

impl Addresses for () {
    fn into_addresses(self) -> Vec<String> {
        Vec::new()
    }
}

impl Addresses for &str {
    fn into_addresses(self) -> Vec<String> {
        let parts = self.split(',').map(str::trim);
        parts.filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }
}

impl Addresses for String {
    fn into_addresses(self) -> Vec<String> {
        self.as_str().into_addresses()
    }
}

impl Addresses for &String {
    fn into_addresses(self) -> Vec<String> {
        self.as_str().into_addresses()
    }
}

impl<A: Addresses> Addresses for Vec<A> {
    fn into_addresses(self) -> Vec<String> {
        self.into_iter().flat_map(A::into_addresses).collect()
    }
}

impl<A: Addresses, const N: usize> Addresses for [A; N] {
    fn into_addresses(self) -> Vec<String> {
        self.into_iter().flat_map(A::into_addresses).collect()
    }
}

impl Addresses for &[String] {
    fn into_addresses(self) -> Vec<String> {
        self.iter().flat_map(Addresses::into_addresses).collect()
    }
}

impl Addresses for &Vec<String> {
    fn into_addresses(self) -> Vec<String> {
        self.as_slice().into_addresses()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_several_or_none() {
        let both = ["http://a:1", "http://b:1"];
        assert_eq!(" http://a:1, http://b:1,".into_addresses(), both);
        assert_eq!(both.into_addresses(), both);
        assert_eq!(both.map(str::to_owned).as_slice().into_addresses(), both);
        assert_eq!(().into_addresses(), [""; 0]);
        assert_eq!("".into_addresses(), [""; 0]);
    }
}
