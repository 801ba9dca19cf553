"""The services of this project: the shop owns orders, the warehouse reads them."""
