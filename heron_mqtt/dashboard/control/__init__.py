"""Control from the page, for people who have logged in; imported only where --control asks for it."""
