"""Privacy as numbers: accounts and promises, secret noise, what messages and models give away."""
