import pytest
from report_samples import bare_report, lenet_report


@pytest.fixture(scope="session")
def lenet():
    return lenet_report()


@pytest.fixture(scope="session")
def bare():
    return bare_report()
