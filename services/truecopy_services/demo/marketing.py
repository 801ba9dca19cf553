"""The service `marketing`: it keeps both projections in a replica of its own."""

from truecopy_services.app import Truecopy
from truecopy_services.demo.projections import customer_value, purchases

__all__ = ["marketing"]

marketing = Truecopy("marketing")
marketing.add(customer_value)
marketing.add(purchases)
