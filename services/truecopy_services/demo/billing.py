"""The service `billing`: it keeps both projections in a replica of its own."""

from truecopy_services.app import Truecopy
from truecopy_services.demo.projections import customer_value, purchases

__all__ = ["billing"]

billing = Truecopy("billing")
billing.add(customer_value)
billing.add(purchases)
