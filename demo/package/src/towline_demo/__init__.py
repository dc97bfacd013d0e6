"""The demo's own package: installed editable here, and shipped by Towline to every host.

`flights` finds and reads the data in whatever environment it runs in; `weather` sorts hours into bands by a data file
of this package.
"""

from towline_demo.flights import airlines, count_flights, flights, flights_shape
from towline_demo.weather import bands, weather, weather_shape

__all__ = ["airlines", "bands", "count_flights", "flights", "flights_shape", "weather", "weather_shape"]
